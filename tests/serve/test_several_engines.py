"""One gateway before several engines: retries, fallbacks, hedges, shadows, a queue, when engines fail or are slow."""

from __future__ import annotations

import asyncio
from typing import Any

from pilothouse.serve.gateway.ask import Tries
from tests.serve.scripted import Front, Script, Wire, ask, chunk, fleet, run, sse, streamed, whole


def says(text: str, *, after: float = 0.0) -> Script:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        until = asyncio.get_running_loop().time() + after
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
            if wire.reader.at_eof():
                raise ConnectionError("nobody waits")
        await (wire.stream(streamed([text])) if request.get("stream") else wire.json(whole(text)))

    return script


async def dies(_: dict[str, Any], wire: Wire) -> None:
    wire.die()


async def fails(_: dict[str, Any], wire: Wire) -> None:
    await wire.json(b'{"error":{"message":"out of memory"}}', 500)


async def head_then_dies(_: dict[str, Any], wire: Wire) -> None:
    await wire.begin()
    await wire.writer.drain()
    await asyncio.sleep(0.02)
    wire.die()


async def word_then_dies(_: dict[str, Any], wire: Wire) -> None:
    await wire.begin()
    await wire.piece(sse(chunk({"content": "half"})))
    await asyncio.sleep(0.02)
    wire.die()


async def texts(f: Front, n: int, **fields: Any) -> list[str]:
    got = [await f.post(ask(**fields)) for _ in range(n)]
    return [g.text() if fields.get("stream") else g.json["choices"][0]["message"]["content"] for g in got]


def test_a_request_that_an_engine_drops_before_a_token_is_answered_by_another() -> None:
    async def check() -> None:
        for bad in (dies, fails, head_then_dies):
            for stream in (False, True):
                async with fleet({"bad": bad, "good": says("fine")}) as (f, engines):
                    assert await texts(f, 6, stream=stream) == ["fine"] * 6
                    assert 1 <= len(engines["bad"].requests) <= 6 and len(engines["good"].requests) == 6
                    assert all(e.status == 200 and e.backend == "good" for e in await f.recorded(6))

    run(check())


def test_a_stream_that_breaks_after_a_token_is_not_asked_again() -> None:
    async def check() -> None:
        async with fleet({"bad": word_then_dies, "good": says("fine")}, {"good": {"role": "fallback"}}) as (f, engines):
            got = await f.post(ask(stream=True))
            assert got.text() == "half" and got.events[-1]["error"]["code"] == "engine_failed"
            assert not engines["good"].requests

    run(check())


def test_an_engine_that_keeps_failing_is_left_alone_for_a_while() -> None:
    async def check() -> None:
        async with fleet({"bad": dies, "good": says("fine")}) as (f, engines):
            await texts(f, 30)
            assert len(engines["bad"].requests) <= 6  # five failures open its circuit
            figures = (await f.get("/metrics")).body.decode()
            assert 'pilothouse_engine_circuit_open{engine="bad"} 1.0' in figures
            assert 'pilothouse_engine_circuit_open{engine="good"} 0.0' in figures

    run(check())


def test_when_all_fail_the_caller_is_told_once_and_soon() -> None:
    async def check() -> None:
        async with fleet({"a": dies, "b": fails, "c": dies}) as (f, engines):
            got = await f.post(ask())
            assert got.status in (500, 502) and got.json["error"]["message"]
            assert sum(len(e.requests) for e in engines.values()) <= 3

    run(check())


def test_a_fallback_answers_while_the_own_engine_restarts() -> None:
    async def check() -> None:
        states = {"spare": {"role": "fallback"}, "own": {"ready": False}}
        async with fleet({"own": says("own"), "spare": says("spare")}, states) as (f, _):
            assert await texts(f, 2) == ["spare", "spare"]
            assert (await f.get("/healthz")).status == 200

    run(check())


def test_a_hedge_hears_whoever_speaks_first_and_drops_the_other() -> None:
    async def check() -> None:
        tries = Tries(hedge_s=0.05)
        for stream in (False, True):
            async with fleet({"slow": says("slow", after=5), "quick": says("quick")}, tries=tries) as (f, engines):
                for _ in range(4):
                    async with asyncio.timeout(2):
                        assert await texts(f, 1, stream=stream) == ["quick"]
                assert engines["slow"].requests  # it was asked first at least once …
                async with asyncio.timeout(3):
                    while engines["slow"].left < len(engines["slow"].requests):  # … and sees that nobody waits for it
                        await asyncio.sleep(0.01)

    run(check())


def test_no_hedge_is_sent_when_the_first_is_quick_enough() -> None:
    async def check() -> None:
        async with fleet({"a": says("a"), "b": says("b")}, tries=Tries(hedge_s=1.0)) as (f, engines):
            await texts(f, 10)
            assert sum(len(e.requests) for e in engines.values()) == 10

    run(check())


def test_a_hedge_that_fails_leaves_the_first_to_answer() -> None:
    async def check() -> None:
        states = {"bad": {"role": "fallback"}}
        async with fleet({"slow": says("slow", after=0.3), "bad": dies}, states, tries=Tries(hedge_s=0.05)) as (f, _):
            assert await texts(f, 1) == ["slow"]

    run(check())


def test_a_shadow_gets_a_copy_and_never_answers_or_delays() -> None:
    async def check() -> None:
        states = {"watch": {"role": "shadow"}}
        async with fleet({"own": says("own"), "watch": says("watch", after=0.5)}, states) as (f, engines):
            async with asyncio.timeout(0.4):
                assert await texts(f, 1) == ["own"]
            async with asyncio.timeout(3):
                while not engines["watch"].requests:
                    await asyncio.sleep(0.01)
            assert engines["watch"].requests[0]["messages"] == engines["own"].requests[0]["messages"]

    run(check())


def test_a_queue_lets_no_more_through_than_there_are_streams_and_keeps_their_order() -> None:
    running, most, order = 0, 0, list[str]()

    async def script(request: dict[str, Any], wire: Wire) -> None:
        nonlocal running, most
        running, order_of = running + 1, request["messages"][-1]["content"]
        most = max(most, running)
        order.append(order_of)
        await asyncio.sleep(0.05)
        running -= 1
        await wire.json(whole("x"))

    async def check() -> None:
        async with fleet({"own": script}, {"own": {"capacity": 2}}, admission="queue") as (f, _):
            asking = []
            for n in range(10):
                asking.append(asyncio.ensure_future(f.post(ask(str(n)))))
                await asyncio.sleep(0.005)
            assert [g.status for g in await asyncio.gather(*asking)] == [200] * 10
            assert most == 2 and order == [str(n) for n in range(10)]
            assert max(e.queue_ms for e in await f.recorded(10)) > 100

    run(check())


def test_what_would_miss_the_slo_is_429_with_a_time_and_the_rest_meets_it() -> None:
    async def check() -> None:
        settings = {"admission": "slo", "ttft_s": 0.35}
        async with fleet({"own": says("x", after=0.1)}, {"own": {"capacity": 2}}, **settings) as (f, _):
            await texts(f, 3)  # from which it learns how long one takes
            got = await asyncio.gather(*(f.post(ask()) for _ in range(20)))
            served, refused = [g for g in got if g.status == 200], [g for g in got if g.status == 429]
            assert len(served) >= 4 and len(refused) >= 8 and len(served) + len(refused) == 20
            assert all(int(g.headers["retry-after"]) >= 1 for g in refused)
            assert refused[0].json["error"]["code"] == "overloaded"
            late = [e for e in await f.recorded(23) if e.status == 200 and e.queue_ms > 350]
            assert not late
            assert await texts(f, 1) == ["x"]  # and afterwards all is as before

    run(check())


def test_a_client_that_leaves_the_queue_takes_nobodys_place() -> None:
    async def check() -> None:
        async with fleet({"own": says("x", after=0.2)}, {"own": {"capacity": 1}}, admission="queue") as (f, engines):
            first = asyncio.ensure_future(f.post(ask("first")))
            await asyncio.sleep(0.03)
            _, writer = await asyncio.open_connection("127.0.0.1", f.port)
            leaving = b'{"model":"desk","messages":[{"role":"user","content":"leaving"}]}'
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(leaving)
            )
            writer.write(leaving)
            await asyncio.sleep(0.03)
            last = asyncio.ensure_future(f.post(ask("last")))
            await asyncio.sleep(0.03)
            writer.transport.abort()
            assert (await first).status == 200 and (await last).status == 200
            assert [r["messages"][-1]["content"] for r in engines["own"].requests] == ["first", "last"]

    run(check())


def test_what_an_engine_cannot_do_is_refused_and_never_dropped() -> None:
    async def check() -> None:
        async with fleet({"own": says("x")}, {"own": {"lacks": ("logprobs", "structured_output", "tools")}}) as (f, _):
            schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
            tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            for fields in ({"logprobs": True}, {"response_format": schema}, {"tools": [tool]}):
                got = await f.post(ask(**fields))
                assert got.status == 400 and got.json["error"]["param"] == next(iter(fields))
            assert (await f.post(ask(response_format={"type": "text"}))).status == 200

    run(check())
