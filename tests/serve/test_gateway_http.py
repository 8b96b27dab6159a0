"""HTTP as clients really speak it: kept and pipelined connections, bodies in pieces, limits, and what is not HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.serve.gateway import gateway as gateway_module
from pilothouse.serve.gateway import http as http_module
from tests.serve.scripted import Front, Wire, ask, front, parse, run, streamed, whole


async def echo(request: dict[str, Any], wire: Wire) -> None:
    """Answers with the question; a stream when asked."""
    text = request["messages"][-1]["content"]
    if request.get("stream"):
        await wire.stream(streamed([text]), pause=0.005)
    else:
        await asyncio.sleep(0.02 if text == "slow" else 0)
        await wire.json(whole(text))


def post(body: dict[str, Any], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost:1", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer on a kept connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        out = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            out += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return out
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def test_many_requests_on_one_connection_whole_and_streamed() -> None:
    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            for i in range(5):
                writer.write(post(ask(f"a{i}", stream=bool(i % 2))))
                assert f"a{i}".encode() in await read_answer(reader)
            writer.close()

    run(check())


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            texts = ["slow", "b", "slow", "d"]
            writer.write(b"".join(post(ask(t, stream=i == 1)) for i, t in enumerate(texts)))
            got = [await read_answer(reader) for _ in texts]
            assert [t.encode() in body for t, body in zip(texts, got, strict=True)] == [True] * 4
            writer.close()

    run(check())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_a_request_may_come_in_any_pieces(cuts: list[int], chunked: bool) -> None:
    content = json.dumps(ask("péng" * 20, stream=False)).encode()
    if chunked:
        pieces = [content[i : i + 37] for i in range(0, len(content), 37)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
        length = "Transfer-Encoding: chunked"
    else:
        body, length = content, f"Content-Length: {len(content)}"
    data = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\r\n".encode()
        + body
    )
    borders = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})

    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for a, b in itertools.pairwise(borders):
                writer.write(data[a:b])
                await asyncio.sleep(0.0005)
            got = parse(await reader.read())
            assert got.status == 200 and f.engine.requests[0]["messages"][-1]["content"] == "péng" * 20
            writer.close()

    run(check())


def test_expect_100_continue_is_answered_before_the_body() -> None:
    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            head, _, body = post(ask("x"), "Expect: 100-continue").partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert b'"x"' in await read_answer(reader)
            writer.close()

    run(check())


async def _sends_on(f: Front, head: str, body: bytes) -> int:
    """Status seen by a client that sends its whole body before it reads, as many do."""

    def talk() -> int:
        with socket.create_connection(("127.0.0.1", f.port), timeout=5) as s:
            s.sendall(head.encode() + body)
            return int(s.recv(4096).split()[1])

    return await asyncio.to_thread(talk)


def test_a_body_too_large_is_413_and_the_client_gets_to_read_it() -> None:
    async def check() -> None:
        async with front(echo, body_limit=1000) as f:
            big = b"x" * 3_000_000
            told = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(big)}\r\n\r\n"
            assert await _sends_on(f, told, big) == 413
            untold = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            assert await _sends_on(f, untold, b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)) == 413
            got = await f.post(ask("x" * 2000))
            assert got.status == 413 and got.json["error"]["type"] == "invalid_request_error"
            assert f.engine.requests == []

    run(check())


def test_a_head_without_end_is_431_and_not_collected() -> None:
    async def check() -> None:
        async with front(echo) as f:
            for line in ("X-Long: " + "a" * 60_000, "\r\n".join(f"X-{i}: {'b' * 100}" for i in range(600))):
                got = parse(await f.raw(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode()))
                assert got.status == 431
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nX-Endless: ")
            for _ in range(20):
                writer.write(b"c" * 8000)
                await asyncio.sleep(0.002)
            assert parse(await asyncio.wait_for(reader.read(), 5)).status == 431
            writer.close()

    run(check())


def test_what_is_not_http_is_400() -> None:
    async def check() -> None:
        async with front(echo) as f:
            assert parse(await f.raw(b"hello\r\n\r\n")).status == 400
            two = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            assert parse(await f.raw(two + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")).status == 400
            assert parse(await f.raw(two + b"Content-Length: 3\r\n\r\n{}x")).status == 400

    run(check())


def test_http_1_0_gets_an_answer_that_ends_with_the_connection() -> None:
    async def check() -> None:
        async with front(echo) as f:
            data = post(ask("old", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
            got = parse(await f.raw(data))
            assert "transfer-encoding" not in got.headers and got.body.endswith(b"data: [DONE]\n\n")
            assert got.text() == "old"

    run(check())


def test_an_idle_connection_is_closed_and_a_half_request_told(monkeypatch: Any) -> None:
    for name in ("_IDLE_S", "_HEAD_S", "_BODY_S"):
        monkeypatch.setattr(http_module, name, 0.15)
    monkeypatch.setattr(gateway_module, "_LOOK_S", 0.05)

    async def check() -> None:
        async with front(echo) as f:
            assert await f.raw(b"", timeout=3) == b""
            assert parse(await f.raw(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le", timeout=5)).status == 408
            slow = post(ask("x"))
            assert parse(await f.raw(slow[:-5], timeout=5)).status == 408

    run(check())


def test_wrong_method_and_unknown_path() -> None:
    async def check() -> None:
        async with front(echo) as f:
            assert (await f.get("/v1/chat/completions")).status == 405
            assert (await f.get("/v1/elsewhere")).status == 404
            assert (await f.get("/else")).status == 404

    run(check())


def test_stopping_lets_answers_in_flight_end_and_takes_no_new_ones() -> None:
    async def slow(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream(streamed(["x"] * 10), pause=0.03)

    async def check() -> None:
        async with front(slow) as f:
            asking = asyncio.ensure_future(f.post(ask(stream=True)))
            await asyncio.sleep(0.1)
            await f.gateway.stop(5)
            assert (await asking).text() == "x" * 10
            try:
                await f.get("/healthz")
            except OSError:
                return
            raise AssertionError("it still listens")

    run(check())


def test_many_small_requests_in_one_piece_are_no_long_head() -> None:
    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3000 + b"GET /healthz HT")
            for _ in range(3000):
                assert b'"ok"' in await read_answer(reader)
            writer.close()

    run(check())


def test_a_long_body_in_one_piece_is_no_long_head() -> None:
    async def check() -> None:
        async with front(echo) as f:
            reader, writer = await asyncio.open_connection("127.0.0.1", f.port)
            for _ in range(3):
                writer.write(post(ask("x" * 60_000)))
                assert len(await read_answer(reader)) > 60_000
            writer.write(post(ask("short")))
            assert b'"short"' in await read_answer(reader)
            writer.close()

    run(check())
