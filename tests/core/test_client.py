"""The client against servers that behave, misbehave and break: errors are told, never raised; times are sound."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.client import Completion, Job, chat, chat_many, run
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import Raw, target
from pilothouse.core.wire_chat import completion

KEY = "sk-very-secret-0123456789"
ASK = [{"role": "user", "content": "Hello"}]
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Answer = Callable[[dict, Writer], Awaitable[None]]


async def read_request(reader: Reader) -> tuple[str, dict]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(next(line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length")))
    return head, json.loads(await reader.readexactly(length))


def with_server(answer: Answer, use: Callable[[Endpoint], Awaitable[Completion]], heads: list[str] | None = None):
    """Run `use` against a server whose connections give each request to `answer`."""

    async def main():
        async def serve(reader: Reader, writer: Writer) -> None:
            try:
                while not writer.is_closing():
                    head, body = await read_request(reader)
                    if heads is not None:
                        heads.append(head)
                    await answer(body, writer)
                    if not writer.is_closing():
                        await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await use(Endpoint(f"http://127.0.0.1:{port}", "m", KEY, {"lora": [{"id": 0}]}))
        finally:
            server.close()

    return run(main())


def plain(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def whole(text: str = "hi") -> bytes:
    value = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return plain(200, json.dumps(value).encode(), "Content-Type: application/json")


def event(delta: dict, finish: str | None = None, **more: object) -> bytes:
    value = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}\n\n'
DONE = b"data: [DONE]\n\n"


def sends(*pieces: bytes, close: bool = False) -> Answer:
    async def answer(_: dict, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        if close:
            writer.close()

    return answer


def asks(**body: object) -> Callable[[Endpoint], Awaitable[Completion]]:
    return lambda endpoint: chat(endpoint, ASK, max_tokens=5, **body)


def test_a_whole_answer_is_read_and_the_request_says_what_was_asked() -> None:
    heads: list[str] = []
    bodies: list[dict] = []

    async def answer(body: dict, writer: Writer) -> None:
        bodies.append(body)
        writer.write(whole())

    found = with_server(answer, asks(seed=4, stop=None), heads)
    assert (found.text, found.status, found.error, found.finish_reason) == ("hi", 200, "", "stop")
    assert (found.prompt_tokens, found.completion_tokens) == (3, 2)
    assert f"Authorization: Bearer {KEY}" in heads[0]
    wanted = {"model": "m", "messages": ASK, "max_tokens": 5, "temperature": 0.0, "stream": False, "seed": 4}
    assert bodies == [wanted | {"lora": [{"id": 0}]}]
    assert found.timing is not None
    assert found.timing.ttft is None
    assert 0 < found.timing.latency < 5


def test_a_stream_is_joined_and_a_role_only_chunk_is_no_token() -> None:
    pieces = [event({"role": "assistant", "content": ""}), event({"content": "a"}), event({"content": "b"})]
    last = event({}, "stop") + USAGE + DONE
    found = with_server(sends(STREAM, *map(chunked, pieces), chunked(last), b"0\r\n\r\n"), asks(stream=True))
    assert (found.text, found.error, found.finish_reason) == ("ab", "", "stop")
    assert (found.prompt_tokens, found.completion_tokens) == (9, 3)
    assert found.timing is not None
    assert [e.k for e in found.timing.events] == [1, 1]
    assert found.timing.counting == "usage"
    assert found.timing.t_send <= found.timing.events[0].t <= found.timing.events[1].t <= found.timing.t_close


def test_reasoning_tool_calls_and_logprobs_are_read() -> None:
    rivals = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -2}]
    listed = {"content": [{"id": 7, "token": "a", "logprob": -0.1, "top_logprobs": rivals}]}
    call = {"index": 0, "id": "c1", "function": {"name": "book", "arguments": '{"x"'}}
    pieces = [
        event({"reasoning_content": "hm"}),
        event({"content": "a"}, logprobs=listed),
        event({"tool_calls": [call]}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}, "tool_calls"),
        DONE,
    ]
    found = with_server(sends(STREAM, chunked(b"".join(pieces)), b"0\r\n\r\n"), asks(stream=True))
    assert found.error == ""
    assert found.message["reasoning_content"] == "hm"
    assert found.message["tool_calls"] == [{"id": "c1", "function": {"name": "book", "arguments": '{"x": 1}'}}]
    assert [(t.token, t.logprob, t.id, t.top) for t in found.tokens] == [("a", -0.1, 7, (("a", -0.1), ("b", -2.0)))]
    assert found.timing is not None
    assert len(found.timing.events) == 4


@pytest.mark.parametrize(
    ("pieces", "close", "fault", "says"),
    [
        ([plain(500, b'{"error": {"message": "out of memory"}}')], False, "http 500", "HTTP 500: out of memory"),
        ([plain(429, b"slow down")], False, "http 429", "slow down"),
        ([plain(307, b"", "Location: /elsewhere")], False, "http 307", "redirect to /elsewhere"),
        ([plain(401, json.dumps({"error": f"bad key {KEY}"}).encode())], False, "http 401", "bad key ***"),
        ([plain(200, b"<html>")], False, "malformed", "not JSON"),
        ([plain(200, b"{}")], False, "malformed", "no choices"),
        ([b"SSH-2.0-OpenSSH\r\n"], False, "protocol", "not valid HTTP"),
        ([b""], True, "reset", "without an answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc"], True, "truncated", "before the answer ended"),
        ([STREAM, chunked(event({"content": "a"}))], True, "truncated", "before the answer ended"),
        ([STREAM, chunked(event({"content": "a"})), b"0\r\n\r\n"], False, "truncated", "without finish_reason"),
        ([STREAM, chunked(b"data: {nonsense\n\n"), b"0\r\n\r\n"], False, "malformed", "a stream event is not JSON"),
        (
            [
                STREAM,
                chunked(event({"content": "a"}) + b'data: {"error": {"message": "engine died"}}\n\n'),
                b"0\r\n\r\n",
            ],
            False,
            "stream",
            "engine died",
        ),
        ([STREAM, chunked(b'event: error\ndata: {"message": "gone"}\n\n'), b"0\r\n\r\n"], False, "stream", "gone"),
    ],
)
def test_every_failure_is_told_and_keeps_the_key_secret(
    pieces: list[bytes], close: bool, fault: str, says: str
) -> None:
    found = with_server(sends(*pieces, close=close), asks(stream=True))
    assert found.fault == fault
    assert says in found.error
    assert KEY not in found.error + repr(found.fault)
    assert "\n" not in found.error


def test_text_before_a_failure_is_kept() -> None:
    found = with_server(sends(STREAM, chunked(event({"content": "so far"})), close=True), asks(stream=True))
    assert found.text == "so far"
    assert found.error


def test_nobody_listening_is_a_plain_error() -> None:
    found = run(chat(Endpoint("http://127.0.0.1:1", "m", KEY), ASK, max_tokens=5))
    assert found.fault == "connect"
    assert found.error == "cannot connect to 127.0.0.1:1 (connection refused: nothing listens there)"


def test_a_slow_server_times_out_and_the_server_sees_the_client_leave() -> None:
    left = []

    async def answer(_: dict, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
        for _ in range(500):
            await asyncio.sleep(0.01)
            if writer.is_closing():
                left.append(True)
                return
            writer.write(b"x")

    async def use(endpoint: Endpoint) -> Completion:
        found = await chat(endpoint, ASK, max_tokens=5, stream=True, timeout_s=0.1)
        for _ in range(200):
            if left:
                break
            await asyncio.sleep(0.01)
        return found

    found = with_server(answer, use)
    assert found.fault == "timeout"
    assert "no complete answer within 0.1 s" in found.error
    assert left


def test_an_interim_answer_is_passed_over() -> None:
    found = with_server(sends(b"HTTP/1.1 100 Continue\r\n\r\n", whole("after")), asks())
    assert (found.status, found.text) == (200, "after")


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    body = b'{"choices": [{"message": {"content": "old style"}}]}'
    found = with_server(sends(b"HTTP/1.0 200 OK\r\n\r\n" + body, close=True), asks())
    assert (found.text, found.error) == ("old style", "")


def test_many_answers_keep_their_order_reuse_connections_and_stay_within_the_limit() -> None:
    open_now, most, heads = 0, 0, []
    done: list[int] = []

    async def answer(body: dict, writer: Writer) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.005)
        open_now -= 1
        writer.write(whole(body["messages"][0]["content"]))

    ports = set()

    async def use(endpoint: Endpoint) -> list[Completion]:
        jobs = [Job([{"role": "user", "content": str(i)}], 5) for i in range(20)]
        return await chat_many(endpoint, jobs, concurrency=3, on_done=lambda i, _: done.append(i))

    async def watching(body: dict, writer: Writer) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        await answer(body, writer)

    found = with_server(watching, use, heads)
    assert [c.text for c in found] == [str(i) for i in range(20)]
    assert sorted(done) == list(range(20))
    assert most == 3
    assert len(ports) == 3


def test_a_server_that_says_keep_alive_and_closes_costs_no_answer() -> None:
    found = with_server(
        sends(whole(), close=True), lambda e: chat_many(e, [Job(ASK, 5) for _ in range(12)], concurrency=2)
    )
    assert [c.error for c in found] == [""] * 12


def test_a_request_is_sent_again_only_once_and_only_on_a_kept_connection() -> None:
    seen = 0

    async def answer(_: dict, writer: Writer) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            writer.write(whole())
        else:
            writer.close()

    found = with_server(answer, lambda e: chat_many(e, [Job(ASK, 5), Job(ASK, 5)], concurrency=1))
    assert [c.fault for c in found] == ["", "reset"]
    assert seen == 3


def test_a_request_on_a_new_connection_is_never_sent_again() -> None:
    seen = 0

    async def answer(_: dict, writer: Writer) -> None:
        nonlocal seen
        seen += 1
        writer.close()

    assert with_server(answer, asks()).fault == "reset"
    assert seen == 1


def test_an_error_in_the_callers_callback_ends_the_call() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with_server(sends(whole()), lambda e: chat_many(e, [Job(ASK, 5)] * 4, concurrency=2, on_done=fail))


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:80", "http://", "http://u:pw12345@h", "http://h:99999", "http://a b"]
)
def test_a_url_that_cannot_be_used_is_a_user_error_without_its_password(url: str) -> None:
    with pytest.raises(UserError) as e:
        run(chat(Endpoint(url, "m"), ASK, max_tokens=1))
    assert "pw12345" not in e.value.line()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
@pytest.mark.parametrize("trusted", [True, False])
def test_https_checks_the_certificate(trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def main() -> Completion:
        async def serve(reader: Reader, writer: Writer) -> None:
            await read_request(reader)
            writer.write(whole("over TLS"))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            port = server.sockets[0].getsockname()[1]
            return await chat(Endpoint(f"https://127.0.0.1:{port}", "m"), ASK, max_tokens=5)
        finally:
            server.close()

    found = run(main())
    if trusted:
        assert (found.text, found.error) == ("over TLS", "")
    else:
        assert found.fault == "connect"
        assert "TLS failed: self-signed certificate" in found.error


def test_targets() -> None:
    t = target("https://host.example/api/v1/")
    assert (t.host, t.port, t.tls, t.path, t.authority) == ("host.example", 443, True, "/api", "host.example")
    assert target("http://[::1]:8080").authority == "[::1]:8080"


_CONTENT = [event({"role": "assistant"}), event({"content": "dé"}), event({"content": "jà 🛫"}, "stop"), USAGE, DONE]


@given(st.lists(st.integers(0, 1000), max_size=15), st.booleans())
def test_any_cutting_of_the_bytes_gives_the_same_answer(cuts: list[int], small_chunks: bool) -> None:
    body = b"".join(_CONTENT)
    step = 7 if small_chunks else len(body)  # HTTP chunks that cut characters and events
    coded = b"".join(chunked(body[i : i + step]) for i in range(0, len(body), step)) + b"0\r\n\r\n"
    data = STREAM + coded
    at = sorted({min(c, len(data)) for c in cuts})
    pieces = [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if a < b]
    events = tuple((float(i), piece) for i, piece in enumerate(pieces))
    raw = Raw(-1.0, -0.5, float(len(pieces)), events, 200, {"content-type": "text/event-stream"})
    found = completion(raw)
    assert (found.text, found.error, found.finish_reason) == ("déjà 🛫", "", "stop")
    assert found.timing is not None
    assert len(found.timing.events) == 2
    assert raw.body == body


def test_ctrl_c_ends_a_call_cleanly() -> None:
    code = """
import asyncio, sys
from pilothouse.core.client import run
async def wait():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cancelled", flush=True)
try:
    run(wait())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == b"cancelled\ninterrupted\n"
    assert process.returncode == 0
