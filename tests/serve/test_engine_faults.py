"""An engine that speaks wrongly: callers get a whole answer or a clear fault, never another's words, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.core.project.schema import Guard, Rule
from pilothouse.guard.policy import compile_policy
from pilothouse.serve.gateway import upstream as upstream_module
from pilothouse.serve.gateway.http import Reply
from pilothouse.serve.gateway.upstream import Patience
from tests.serve.scripted import USAGE, Answer, Front, Wire, ask, chunk, fleet, front, run, sse, streamed, whole

POLICY = compile_policy(Guard(rules=(Rule(detector="secrets", action="block"),), refusal="No."))
EVENTS = streamed(["Hel", "lo ", "wörld"])
Play = Callable[[Wire], Awaitable[None]]
MODES = [(path, guarded) for path in ("/v1/chat/completions", "/v1/messages") for guarded in (False, True)]


def asked(path: str, *, stream: bool) -> dict[str, Any]:
    more = {"max_tokens": 9} if path == "/v1/messages" else {}
    return {**ask(stream=stream), **more}


def said(got: Answer) -> str:
    """The text of a stream in either form."""
    found = []
    for line in got.body.decode().splitlines():
        payload = line.removeprefix("data:").strip()
        if payload.startswith("{"):
            event = json.loads(payload)
            found += [c["delta"].get("content") or "" for c in event.get("choices", [])]
            found.append(event.get("delta", {}).get("text") or "")
    return "".join(found)


async def play(play: Play, path: str, guarded: bool, *, stream: bool, **options: Any) -> tuple[Answer, Front]:
    """One request to an engine that plays this."""

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await play(wire)

    async with front(script, policy=POLICY if guarded else None, **options) as f:
        got = await f.post(asked(path, stream=stream), path=path)
        assert (await f.recorded())[0].status in (got.status, 502, 504)
        assert f.gateway.fleet.shared.members.sums(0) == [0.0, 0.0]
        return got, f


def raw(data: bytes, *, close: bool = True) -> Play:
    async def plays(wire: Wire) -> None:
        wire.writer.write(data)
        if close:
            wire.writer.close()
        await asyncio.sleep(0.3)

    return plays


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
BROKEN = {
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-ty",
    "too short": HEAD % b"application/json" + b"content-length: 900\r\n\r\n" + whole("x"),
    "half a chunk": HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\nff\r\ndata: {",
    "chunk of nonsense": HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": HEAD % b"application/json" + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
    "only interim answers": b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n" * 3,
    "no UTF-8": HEAD % b"application/json" + b'content-length: 13\r\n\r\n{"choices":"\xff',
    "deep": HEAD % b"application/json"
    + b"content-length: 200006\r\n\r\n"
    + b'{"x":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    "an endless header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "guarded"), MODES)
def test_what_is_no_whole_answer_is_502(path: str, guarded: bool, stream: bool) -> None:
    async def check() -> None:
        for name, data in BROKEN.items():
            got, _ = await play(raw(data), path, guarded, stream=stream)
            assert got.status == 502 and got.json["error"]["message"], (name, got)

    run(check())


@pytest.mark.parametrize(("path", "guarded"), MODES)
def test_a_stream_in_any_cut_and_with_any_line_ends_says_the_same(path: str, guarded: bool) -> None:
    plain = b"".join(EVENTS)
    crlf = plain.replace(b"\n", b"\r\n")
    forms = [
        [plain[i : i + 1] for i in range(len(plain))],
        [crlf[i : i + 1] for i in range(len(crlf))],
        [b": ping\n\n", *EVENTS[:3], b": ping\n\n", *EVENTS[3:]],
        [e.replace(b"data: ", b"data:") for e in EVENTS],
        EVENTS[:-1],
        [*EVENTS, EVENTS[-1]],
        [*EVENTS[:-2], EVENTS[-1]],
        [b"event: x\nid: 5\n" + e for e in EVENTS],
    ]

    async def check() -> None:
        for pieces in forms:

            async def plays(wire: Wire, pieces: list[bytes] = pieces) -> None:
                await wire.stream(pieces)

            got, f = await play(plays, path, guarded, stream=True)
            assert got.status == 200 and got.whole and said(got) == "Hello wörld", pieces[:3]
            (e,) = f.kept.exchanges
            assert e.tokens_out == (None if pieces == forms[6] else USAGE["completion_tokens"])
            assert e.finish == "stop" and e.status == 200

    run(check())


@pytest.mark.parametrize(("path", "guarded"), MODES)
def test_streams_that_go_wrong_are_faults(path: str, guarded: bool) -> None:
    bad = {
        "comments only": [b": ping\n\n"] * 5,
        "nothing": [],
        "no UTF-8": [EVENTS[0], b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'],
        "no JSON": [EVENTS[0], b"data: {nonsense\n\n"],
        "half an event": [EVENTS[0], EVENTS[1][:-9]],
        "an event without end": [EVENTS[0], *[b"data: " + b"x" * 500_000] * 10],
        "choices of text": [b'data: {"choices":["a","b"]}\n\n'],
        "a delta of text": [b'data: {"choices":[{"index":0,"delta":"a"}]}\n\n'],
    }

    async def check() -> None:
        for name, pieces in bad.items():
            if guarded and name == "a delta of text":
                continue  # what a guard does not understand does not pass: the answer is empty

            async def plays(wire: Wire, pieces: list[bytes] = pieces) -> None:
                await wire.stream(pieces)

            got, f = await play(plays, path, guarded, stream=True)
            assert (got.status == 502 or b"error" in got.body) and b"[DONE]" not in got.body, (name, got)
            assert f.kept.exchanges[0].status == 502, (name, got)

    run(check())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "index", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_FIELDS = ("id", "choices", "usage", "model", "choice", "message", "finish_reason", "index", "content", "tool_calls")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(_FIELDS), _JSON, st.sampled_from(MODES), st.booleans()), min_size=8, max_size=8)
)
def test_any_value_in_any_field_of_an_answer_is_an_answer_or_502(
    cases: list[tuple[str, Any, tuple[str, bool], bool]],
) -> None:
    async def check() -> None:
        for field, value, (path, guarded), stream in cases:
            body = chunk({"content": "a"}, "stop") if stream else json.loads(whole("a"))
            part = "delta" if stream else "message"
            body["usage"] = USAGE
            match field:
                case "choice":
                    body["choices"][0] = value
                case "message":
                    body["choices"][0][part] = value
                case "finish_reason" | "index":
                    body["choices"][0][field] = value
                case "content" | "tool_calls":
                    body["choices"][0][part][field] = value
                case _:
                    body[field] = value

            async def plays(wire: Wire, stream: bool = stream, body: dict[str, Any] = body) -> None:
                if stream:
                    await wire.stream([sse(body), b"data: [DONE]\n\n"])
                else:
                    await wire.json(json.dumps(body).encode())

            got, f = await play(plays, path, guarded, stream=stream)
            assert got.status in (200, 502), (field, value, path, guarded, stream, got)
            (e,) = f.kept.exchanges
            assert isinstance(e.finish, str) and isinstance(e.tokens_out, int | None)
            assert all(0 <= n < 2**40 for n in f.gateway.fleet.shared.keys.sums(0))

    run(check())


def test_a_stall_before_the_head_and_after_it_is_504() -> None:
    async def silent(_: Wire) -> None:
        await asyncio.sleep(2)

    async def head_only(wire: Wire) -> None:
        await wire.begin()
        await asyncio.sleep(2)

    async def half_a_chunk(wire: Wire) -> None:
        await wire.begin()
        wire.writer.write(b"40\r\ndata: ")
        await asyncio.sleep(2)

    async def check() -> None:
        for path, guarded in MODES:
            for plays in (silent, head_only, half_a_chunk):
                got, _ = await play(plays, path, guarded, stream=True, patience=Patience(0.15, 0.15))
                assert got.status == 504, (path, guarded, plays, got)

    run(check())


def test_interim_answers_are_passed_over_and_an_answer_before_the_request_is_read_counts() -> None:
    async def check() -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n"
        body = whole("x")
        answer = HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body
        for path, guarded in MODES:
            got, _ = await play(raw(interim + answer, close=False), path, guarded, stream=False)
            assert got.status == 200 and b'"x"' in got.body

        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(answer)

        async with front(lambda *_: asyncio.sleep(0)) as f:
            server = await asyncio.start_server(early, "127.0.0.1", 0)
            f.engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            f.update()
            assert (await f.post(ask("y" * 50_000))).status == 200
            server.close()

    run(check())


def test_a_second_answer_is_never_given_to_the_next_caller() -> None:
    """Whole or cut in two: the connection that brought it is not used again."""

    async def check() -> None:
        for cut in (0, 10, 90, None):

            async def script(request: dict[str, Any], wire: Wire, cut: int | None = cut) -> None:
                text = request["messages"][-1]["content"]
                one, two = whole(text), whole("stolen")
                head = HEAD % b"application/json" + b"content-length: %d\r\n\r\n"
                second = head % len(two) + two
                wire.writer.write(head % len(one) + one + second[:cut])
                if cut:
                    await asyncio.sleep(0.03)
                    wire.writer.write(second[cut:])

            async with front(script) as f:
                for i in range(6):
                    got = await f.post(ask(f"mine{i}"))
                    assert got.status == 200 and f"mine{i}".encode() in got.body and b"stolen" not in got.body
                    if i % 2:
                        await asyncio.sleep(0.05)

    run(check())


def test_a_caller_who_does_not_read_holds_up_nobody_who_gets_its_connection_next(monkeypatch: Any) -> None:
    monkeypatch.setattr(Reply, "congested", property(lambda r: r.request_id in slow))
    slow: set[str] = set()

    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request["messages"][-1]["content"] == "slow":
            slow.update(r.request_id for r in replies)
        events = b"".join(EVENTS)  # in one read: reading stops with the last piece, when there is nothing left to read
        head = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
        wire.writer.write(b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(events), events))

    replies: list[Reply] = []
    made = Reply.__init__

    def noted(self: Reply, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        replies.append(self)

    monkeypatch.setattr(Reply, "__init__", noted)

    async def check() -> None:
        async with front(script) as f:
            body = json.dumps(ask("slow", stream=True)).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(body) + body)
            await reader.readuntil(b"[DONE]")
            async with asyncio.timeout(2):
                assert said(await f.post(ask("quick", stream=True))) == "Hello wörld"
            assert f.engine.connections == 1
            writer.close()

    run(check())


def test_callers_who_do_not_read_do_not_open_the_engines_circuit() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        for _n in range(400):
            await wire.piece(sse(chunk({"content": "x" * 20_000})))

    async def check() -> None:
        async with fleet({"a": script, "b": script}, patience=Patience(0.3, 0.3)) as (f, _):
            body = json.dumps(ask(stream=True)).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            clients = [await asyncio.open_connection("127.0.0.1", f.port, limit=1024) for _ in range(12)]
            for _, writer in clients:
                writer.write(head.encode() + body)
            await asyncio.sleep(1.2)
            assert not any(f.gateway.fleet.is_open(i) for i in (0, 1))
            assert f.gateway.fleet.shared.circuits.own(0, 0) == 0
            for _, writer in clients:
                writer.transport.abort()

    run(check())


def test_what_a_guard_held_back_of_a_lost_answer_is_not_said_by_the_next_engine() -> None:
    async def dies(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        await wire.piece(sse(chunk({"content": "ghp_"})))
        await asyncio.sleep(0.02)
        wire.die()

    async def answers(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream(EVENTS)

    async def check() -> None:
        async with fleet({"a": dies, "b": answers}, policy=POLICY) as (f, engines):
            for _ in range(4):
                assert said(await f.post(ask(stream=True))) == "Hello wörld"
            assert len(engines["a"].requests) > 0

    run(check())


def test_a_whole_answer_without_an_end_is_not_collected_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(upstream_module, "_WHOLE_LIMIT", 1 << 20)

    async def endless(wire: Wire) -> None:
        wire.writer.write(HEAD % b"application/json" + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(200):
            await wire.piece(b"x" * 50_000)

    async def check() -> None:
        for path, guarded in MODES:
            got, _ = await play(endless, path, guarded, stream=False)
            assert got.status == 502 and "does not end" in got.json["error"]["message"]

    run(check())
