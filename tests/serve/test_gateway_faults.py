"""What callers see when the engine is slow, broken or gone, and what the engine sees when callers leave."""

from __future__ import annotations

import asyncio
from typing import Any

from pilothouse.serve.gateway.ask import Tries
from pilothouse.serve.gateway.upstream import Patience
from tests.serve.scripted import Wire, ask, chunk, front, run, sse, streamed, whole


def test_an_engine_that_breaks_off_a_stream_is_told_inside_it_and_the_stream_does_not_end_as_if_whole() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        await wire.piece(sse(chunk({"content": "Hel"})))
        await asyncio.sleep(0.02)
        wire.die()

    async def check() -> None:
        async with front(script) as f:
            got = await f.post(ask(stream=True))
            assert got.text() == "Hel"
            assert got.events[-1]["error"]["code"] == "engine_failed"
            assert "[DONE]" not in got.events
            (e,) = await f.recorded()
            assert (e.status, e.answer) == (502, "Hel")

    run(check())


def test_an_engine_that_ends_without_an_answer_is_502() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        wire.die()

    async def check() -> None:
        async with front(script) as f:
            for stream in (False, True):
                got = await f.post(ask(stream=stream))
                assert got.status == 502 and got.json["error"]["type"] == "server_error"
                assert got.json["error"]["code"] == "engine_failed"
                assert got.headers["retry-after"] == "1" and got.headers["x-request-id"].startswith("req_")

    run(check())


def test_a_hang_up_at_once_is_asked_again_once_and_a_late_one_is_not() -> None:
    """A process that is being killed still takes connections for a moment."""

    async def script(request: dict[str, Any], wire: Wire) -> None:
        late = request["messages"][-1]["content"] == "late"
        if late:
            await asyncio.sleep(0.6)
        if late or len(f.engine.requests) == 1:
            wire.die()
        else:
            await wire.json(whole("x"))

    async def check() -> None:
        nonlocal f
        async with front(script) as f:
            assert (await f.post(ask())).status == 200 and len(f.engine.requests) == 2
        async with front(script) as f:
            assert (await f.post(ask("late"))).status == 502 and len(f.engine.requests) == 1

    f: Any = None
    run(check())


def test_nonsense_from_the_engine_is_502() -> None:
    async def no_http(_: dict[str, Any], wire: Wire) -> None:
        wire.writer.write(b"what?\r\n\r\n")

    async def no_json(_: dict[str, Any], wire: Wire) -> None:
        await wire.json(b"<html>")

    async def check() -> None:
        for script in (no_http, no_json):
            async with front(script) as f:
                got = await f.post(ask())
                assert (got.status, got.json["error"]["code"]) == (502, "engine_failed"), script

    run(check())


def test_a_slow_engine_is_504_before_its_answer_and_an_event_within_it() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request.get("stream"):
            await wire.begin()
            await wire.piece(sse(chunk({"content": "Hel"})))
        await asyncio.sleep(5)

    async def check() -> None:
        async with front(script, patience=Patience(0.2, 0.2)) as f:
            late = await f.post(ask())
            assert (late.status, late.json["error"]["code"]) == (504, "engine_timeout")
            broken = await f.post(ask(stream=True))
            assert broken.events[-1]["error"]["code"] == "engine_timeout"
            assert [e.status for e in await f.recorded(2)] == [504, 504]

    run(check())


def test_a_steady_stream_may_last_longer_than_the_patience() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream(streamed(["x"] * 10), pause=0.08)

    async def check() -> None:
        async with front(script, patience=Patience(0.4, 0.4)) as f:
            assert (await f.post(ask(stream=True))).text() == "x" * 10

    run(check())


def test_connections_are_kept_and_a_stale_one_is_replaced_once() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        await wire.json(whole("x"))
        if request["messages"][-1]["content"] == "last":
            await asyncio.sleep(0.05)
            wire.die()

    async def check() -> None:
        async with front(script) as f:
            assert [(await f.post(ask())).status for _ in range(5)] == [200] * 5
            assert f.engine.connections == 1
            assert (await f.post(ask("last"))).status == 200
            assert (await f.post(ask())).status == 200  # sent just as the engine closes, or after
            await asyncio.sleep(0.1)
            assert (await f.post(ask())).status == 200

    run(check())


def test_a_stream_is_never_asked_twice_once_something_of_it_arrived() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        if f.engine.requests[-1].get("stream"):
            await wire.begin()
            await asyncio.sleep(0.02)
            wire.die()
        else:
            await wire.json(whole("x"))

    async def check() -> None:
        nonlocal f
        async with front(script) as f:
            await f.post(ask())  # leaves a kept connection
            await f.post(ask(stream=True))
            assert len(f.engine.requests) == 2

    f: Any = None
    run(check())


def test_a_restarting_engine_is_waited_for_and_one_that_stays_away_is_503() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.json(whole("back"))

    async def check() -> None:
        async with front(script, tries=Tries(wait_ready_s=1.0)) as f:
            f.update(ready=False)
            asking = asyncio.ensure_future(f.post(ask()))
            await asyncio.sleep(0.2)
            assert not asking.done()
            f.update(ready=True)
            assert (await asking).status == 200
            f.update(ready=False, failure="the engine ended (exit code -9)")
            got = await f.post(ask())
            assert got.status == 503 and "exit code -9" in got.json["error"]["message"]
            assert int(got.headers["retry-after"]) > 0

    run(check())


def test_a_client_that_leaves_cancels_the_engines_work() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        for _n in range(1000):
            await wire.piece(sse(chunk({"content": "x"})))
            await asyncio.sleep(0.01)

    async def check() -> None:
        async with front(script) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.write(_request(ask(stream=True)))
            await reader.readuntil(b"data:")
            writer.transport.abort()
            async with asyncio.timeout(3):
                while not f.engine.left:
                    await asyncio.sleep(0.01)
            (e,) = await f.recorded()
            assert e.status == 499 and e.answer

    run(check())


def test_a_slow_reader_slows_the_engine_and_not_our_memory() -> None:
    sent = 0

    async def script(_: dict[str, Any], wire: Wire) -> None:
        nonlocal sent
        await wire.begin()
        for _n in range(2000):
            await wire.piece(sse(chunk({"content": "x" * 10_000})))
            sent += 10_000
        await wire.piece(b"data: [DONE]\n\n")
        wire.writer.write(b"0\r\n\r\n")
        wire.writer.close()

    async def check() -> None:
        async with front(script) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port, limit=1 << 16)
            writer.write(_request(ask(stream=True), close=True))
            await asyncio.sleep(0.5)
            held = sent
            assert held < 16_000_000  # sockets' buffers, not 20 MB of ours
            await asyncio.sleep(0.2)
            assert sent == held
            total = 0
            while data := await reader.read(1 << 20):
                total += len(data)
            assert total > 20_000_000
            writer.close()

    run(check())


def _request(body: dict[str, Any], *, close: bool = False) -> bytes:
    import json

    content = json.dumps(body).encode()
    end = "Connection: close\r\n" if close else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{end}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content
