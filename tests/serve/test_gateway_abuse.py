"""Callers who leave, drip, flood or never read: engines stop, counters end at zero, others notice nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.project.schema import Guard, Rule
from pilothouse.guard.policy import compile_policy
from pilothouse.serve.gateway import gateway as gateway_module
from pilothouse.serve.gateway import http as http_module
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.ask import Tries
from pilothouse.serve.gateway.auth import plain_keys
from pilothouse.serve.gateway.limits import Price
from tests.serve.scripted import Front, Wire, ask, chunk, fleet, front, parse, run, sse, streamed, whole

AT_MOST_S = 0.1
POLICY = compile_policy(Guard(rules=(Rule(detector="pii", on=("output",), action="redact"),)))


def post(body: dict[str, Any], *lines: str, path: str = "/v1/chat/completions") -> bytes:
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}", *lines, "", ""]
    return "\r\n".join(head).encode() + content


class Watched:
    """An engine that talks on, and notes when its caller is gone."""

    def __init__(self, *, speaks: bool = True) -> None:
        self.speaks, self.asked = speaks, asyncio.Semaphore(0)
        self.gone: list[float] = []

    async def __call__(self, request: dict[str, Any], wire: Wire) -> None:
        self.asked.release()
        if self.speaks and request.get("stream"):
            await wire.begin()
            await wire.piece(sse(chunk({"content": "words that no guard holds back for long. " * 10})))
        await wire.reader.read()
        self.gone.append(monotonic())
        raise ConnectionResetError


async def leave(f: Front, body: dict[str, Any], engines: list[Watched], before: Callable[[], Awaitable[Any]]) -> float:
    """Ask, leave when `before` is done; seconds until every engine has noticed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
    writer.write(post(body))
    for engine in engines:
        await engine.asked.acquire()
    if body.get("stream") and engines[0].speaks:
        await reader.readuntil(b"data:")
    await before()
    held = [len(e.gone) for e in engines]
    left = monotonic()
    writer.transport.abort()
    async with asyncio.timeout(5):
        while any(len(e.gone) == n for e, n in zip(engines, held, strict=True)):
            await asyncio.sleep(0.001)
    return max(e.gone[-1] for e in engines) - left


@pytest.mark.parametrize("way", ["streamed", "guarded", "whole", "silent", "hedged"])
def test_a_client_that_leaves_is_known_to_the_engine_within_a_tenth_of_a_second(way: str) -> None:
    async def check() -> None:
        body = ask(stream=way != "whole")
        times = []
        if way == "hedged":
            a, b = Watched(speaks=False), Watched(speaks=False)
            async with fleet({"a": a, "b": b}, tries=Tries(hedge_s=0.005)) as (f, _):
                times = [await leave(f, body, [a, b], lambda: asyncio.sleep(0)) for _ in range(100)]
                assert f.gateway.fleet.shared.members.sums(0) == [0.0, 0.0]
        else:
            engine = Watched(speaks=way in ("streamed", "guarded"))
            async with front(engine, policy=POLICY if way == "guarded" else None) as f:
                times = [await leave(f, body, [engine], lambda: asyncio.sleep(0)) for _ in range(100)]
                assert {e.status for e in await f.recorded(100)} == {499}
        assert sorted(times)[98] < AT_MOST_S, sorted(times)[-5:]

    run(check())


def test_a_client_that_leaves_the_queue_is_forgotten_within_a_tenth_of_a_second() -> None:
    async def check() -> None:
        engine = Watched()
        async with front(engine, admission="queue") as f:
            f.update(capacity=1)
            own, times = f.gateway.fleet.shared.own, []
            _, holder = await asyncio.open_connection("127.0.0.1", f.port)
            holder.write(post(ask(stream=True)))
            await engine.asked.acquire()
            for _ in range(100):
                _, writer = await asyncio.open_connection("127.0.0.1", f.port)
                writer.write(post(ask(stream=True)))
                while own.total(0, sh.WAITING) < 1:
                    await asyncio.sleep(0.001)
                left = monotonic()
                writer.transport.abort()
                while own.total(0, sh.WAITING) > 0:
                    await asyncio.sleep(0.001)
                times.append(monotonic() - left)
            holder.transport.abort()
            assert sorted(times)[98] < AT_MOST_S and len(f.engine.requests) == 1

    run(check())


def test_drips_of_a_head_or_a_body_are_ended(monkeypatch: Any) -> None:
    for name in ("_IDLE_S", "_HEAD_S", "_BODY_S"):
        monkeypatch.setattr(http_module, name, 0.4)
    monkeypatch.setattr(gateway_module, "_LOOK_S", 0.05)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    drips = {
        "head": head,
        "header": head + b"X: ",
        "body": head + b"Content-Length: 5000\r\n\r\n",
        "chunks": head + b"Transfer-Encoding: chunked\r\n\r\n",
        "extension": head + b"Transfer-Encoding: chunked\r\n\r\n5;",
        "trailer": head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
        "empty lines": b"\r\n",
    }
    more = {"head": b"A: b\r\n", "chunks": b"1\r\nx\r\n", "trailer": b"A: b\r\n", "empty lines": b"\r\n"}

    async def drip(f: Front, name: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
        writer.write(drips[name])
        answer = asyncio.ensure_future(reader.read())
        began = monotonic()
        while not answer.done() and monotonic() - began < 3:
            writer.write(more.get(name, b"x"))
            await asyncio.sleep(0.02)
        assert monotonic() - began < 2, name
        with suppress(ConnectionError):
            got = await answer
            assert (parse(got).status == 408) if got else (name == "empty lines"), (name, got)
        writer.close()

    async def check() -> None:
        async with front(lambda *_: asyncio.sleep(0)) as f:
            await asyncio.gather(*(drip(f, name) for name in drips))
            assert f.engine.requests == []

    run(check())


def test_who_asks_on_without_reading_fills_no_memory_and_is_ended(monkeypatch: Any) -> None:
    monkeypatch.setattr(http_module, "_UNREAD_S", 1.0)
    monkeypatch.setattr(gateway_module, "_LOOK_S", 0.05)

    async def check() -> None:
        async with front(lambda *_: asyncio.sleep(0)) as f:
            _, writer = await asyncio.open_connection("127.0.0.1", f.port, limit=1024)
            flood = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
            sent, began, most = 0, monotonic(), 0
            while monotonic() - began < 8 and not writer.is_closing():
                with suppress(ConnectionError, TimeoutError):
                    writer.write(flood)
                    await asyncio.wait_for(writer.drain(), 0.2)
                    sent += 500
                for c in f.gateway._connections:
                    held = c.transport.get_write_buffer_size() if c.transport else 0
                    most = max(most, held + 300 * len(c._queue))
                await asyncio.sleep(0)
            assert not f.gateway._connections and monotonic() - began < 7
            assert most < 4 << 20, (most, sent)
            writer.transport.abort()

    run(check())


def test_a_body_in_bytes_costs_its_size_and_not_forty_times_it() -> None:
    async def check() -> None:
        async with front(lambda *_: asyncio.sleep(0)) as f:
            _, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"1\r\nx\r\n" * 100_000)
            async with asyncio.timeout(5):
                while sum(c._size for c in f.gateway._connections) < 100_000:
                    await asyncio.sleep(0.01)
            (connection,) = f.gateway._connections
            assert len(connection._parts) < 1000 and sum(map(len, connection._parts)) == 100_000
            writer.transport.abort()

    run(check())


def test_a_thousand_streams_at_once_without_an_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    gate: asyncio.Event

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        await wire.piece(sse(chunk({"content": "a"})))
        if len(f.engine.requests) >= 1000:
            gate.set()
        await gate.wait()
        for data in streamed(["b"])[1:]:
            await wire.piece(data)
        wire.writer.write(b"0\r\n\r\n")

    async def check() -> None:
        nonlocal gate, f
        gate = asyncio.Event()
        async with front(script) as f, asyncio.timeout(60):
            got = await asyncio.gather(*(f.post(ask(stream=True)) for _ in range(1000)))
            assert {(g.status, g.whole, g.text()) for g in got} == {(200, True, "ab")}
            assert f.gateway.fleet.shared.members.sums(0) == [0.0, 0.0]

    f: Any = None
    try:
        run(check())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_MODES = st.fixed_dictionaries(
    {
        "admission": st.sampled_from(["none", "queue", "slo"]),
        "policy": st.sampled_from([None, POLICY]),
        "hedge": st.sampled_from([None, 0.002]),
        "seed": st.integers(0, 2**32),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_MODES)
def test_whenever_callers_leave_and_engines_fail_all_counters_end_at_zero(mode: dict[str, Any]) -> None:
    rng = random.Random(mode["seed"])

    async def script(request: dict[str, Any], wire: Wire) -> None:
        await asyncio.sleep(rng.choice((0, 0.001, 0.004)))
        match rng.randrange(6):
            case 0:
                wire.die()
            case 1:
                await wire.json(b'{"error":{"message":"busy"}}', rng.choice((429, 500, 503)))
            case _ if request.get("stream"):
                await wire.stream(streamed(["x"] * 4), pause=0.001, close=rng.random() < 0.5)
            case _:
                await wire.json(whole("x"))

    async def caller(f: Front) -> None:
        await asyncio.sleep(rng.random() * 0.03)
        reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
        writer.write(post(ask("x" * rng.choice((1, 5000)), stream=rng.random() < 0.5), "Authorization: Bearer k1"))
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(rng.choice((0.0005, 0.002, 0.005, 0.01, 0.05))):
                await reader.read()
        writer.transport.abort()

    async def check() -> None:
        (key,) = plain_keys({"app": "k1"})
        key = replace(key, tokens_per_minute=10**7, requests_per_minute=10**5, concurrency=30)
        states = {"a": {"capacity": 2}, "b": {"capacity": 1}, "c": {"role": "fallback"}, "d": {"role": "shadow"}}
        told = {"admission": mode["admission"], "ttft_s": 0.02, "policy": mode["policy"], "keys": (key,)}
        told["tries"] = Tries(wait_ready_s=0.05, hedge_s=mode["hedge"])
        async with fleet(dict.fromkeys(states, script), states, **told) as (f, _):
            churn = asyncio.ensure_future(flap(f))
            await asyncio.gather(*(caller(f) for _ in range(60)))
            churn.cancel()
            shared = f.gateway.fleet.shared

            def counted() -> list[float]:
                members = [v for i in range(4) for v in shared.members.sums(i)]
                running = shared.keys.total(key.row, sh.RUNNING)
                return [*members, running, shared.own.total(0, sh.IN_FLIGHT), shared.own.total(0, sh.WAITING)]

            async with asyncio.timeout(5):
                while any(counted()) or f.gateway._connections:
                    await asyncio.sleep(0.005)
            admission = f.gateway._calls._admission
            assert all(q.granted == 0 and not q.waiting for q in admission._queues.values())

    async def flap(f: Front) -> None:
        """Members become ready and unready and are put anew while requests run."""
        before = f.gateway.fleet.members
        while True:
            await asyncio.sleep(0.003)
            f.gateway.fleet.update(tuple(replace(m, ready=rng.random() < 0.7) for m in before))

    run(check())


def test_a_wish_for_another_protocol_is_passed_over_and_the_request_answered_once() -> None:
    """As Java's HttpClient sends every first request: h2c, with a body."""

    async def script(request: dict[str, Any], wire: Wire) -> None:
        await wire.json(whole(request["messages"][-1]["content"]))

    async def check() -> None:
        async with front(script) as f:
            lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
            data = post(ask("one"), *lines) + post(ask("two"), *lines) + post(ask("three"), "Connection: close")
            for cut in (len(data), 30, 150, 270, 400):
                reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
                writer.write(data[:cut])
                await asyncio.sleep(0.01)
                writer.write(data[cut:])
                got = await asyncio.wait_for(reader.read(), 5)
                assert got.count(b"HTTP/1.1 200") == 3 == got.count(b"HTTP/1.1 ")
                assert got.index(b'"one"') < got.index(b'"two"') < got.index(b'"three"')
                writer.close()

    run(check())


def test_a_trailer_says_nothing_that_the_head_must_say() -> None:
    async def check() -> None:
        async with front(lambda *_: asyncio.sleep(0), keys={"app": "k1"}) as f:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.write(head + b"2\r\n{}\r\n0\r\nAuthorization: Bearer k1\r\n\r\n")
            got = await reader.readuntil(b"\r\n")
            assert b" 401 " in got
            writer.close()

    run(check())


def test_a_header_that_once_came_with_a_good_key_opens_nothing_by_itself() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.json(whole("x"))

    async def check() -> None:
        async with front(script, keys={"app": "k1"}) as f:
            assert (await f.post(ask(), headers="Authorization: Basic eA==\r\nx-api-key: k1\r\n")).status == 200
            assert (await f.post(ask(), headers="Authorization: Basic eA==\r\n")).status == 401
            assert (await f.post(ask(), headers="Authorization: Basic eA==\r\nx-api-key: k2\r\n")).status == 401

    run(check())


def test_who_leaves_before_the_engine_has_counted_pays_for_what_was_read() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        for _n in range(50):
            await wire.piece(sse(chunk({"content": "some words. "})))
        await asyncio.sleep(5)

    async def check() -> None:
        for policy in (None, POLICY):
            (key,) = plain_keys({"app": "k1"})
            key = replace(key, tokens_per_minute=1000, budget=1.0)
            async with front(script, policy=policy, price=Price(1000.0, 1000.0)) as f:
                f.gateway.configure(dataclasses.replace(f.gateway.settings, keys=(key,)))
                reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
                writer.write(post(ask("y" * 400, stream=True, max_tokens=500), "Authorization: Bearer k1"))
                for _ in range(30):
                    await reader.readuntil(b"data:")
                writer.transport.abort()
                await f.recorded()
                used = f.gateway._calls.limits.used(key)
                assert used["tokens_in"] >= 100 and 25 <= used["tokens_out"] <= 60 and used["cost"] > 0.1, used

    run(check())


def test_who_waits_for_one_model_does_not_hold_up_who_asks_another() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request["messages"][-1]["content"] == "hold":
            await asyncio.sleep(1)
        await wire.json(whole("x"))

    async def check() -> None:
        async with fleet({"a": script, "b": script}, {n: {"capacity": 1} for n in "ab"}, admission="queue") as (f, _):
            a, b = f.gateway.fleet.members
            served = a.models["desk"]
            f.gateway.fleet.update((replace(a, models={"one": served}), replace(b, models={"two": served})))
            holds = [asyncio.ensure_future(f.post(ask("hold") | {"model": "one"})) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert f.gateway.fleet.shared.own.total(0, sh.WAITING) == 2
            async with asyncio.timeout(0.5):
                assert (await f.post(ask("quick") | {"model": "two"})).status == 200
            for hold in holds:
                hold.cancel()

    run(check())


def test_a_hedge_is_recorded_by_the_engine_that_was_heard() -> None:
    async def slow(_: dict[str, Any], wire: Wire) -> None:
        await asyncio.sleep(0.06)
        await wire.json(whole("slow"))

    async def never(_: dict[str, Any], wire: Wire) -> None:
        await wire.reader.read()

    async def check() -> None:
        for scripts, heard in (({"a": slow, "b": never}, "a"), ({"a": never, "b": slow}, "b")):
            async with fleet(scripts, tries=Tries(hedge_s=0.02)) as (f, _):
                for _ in range(4):
                    assert (await f.post(ask())).status == 200
                assert {e.backend for e in await f.recorded(4)} == {heard}

    run(check())
