"""What would an engine that costs nothing answer? The upstream of the gateway's benchmark, in a process of its own.

`measure.null_server` keeps time for one client; this one is for many fronts. Its chunks are whole OpenAI objects (a
front need not invent what is missing), and its stamps are words of the answer's text, so they survive a front that
writes every chunk anew: the first word of an answer is when its request was read, and every token ends with a word
that says when it was written. A word is CLOCK_MONOTONIC in microseconds, in letters, which no guard takes for data. The
body may carry `"null": {"ttft_ms", "itl_ms", "tokens"}`; a whole answer comes at once unless it asks for a TTFT.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import cast

import httptools
import msgspec

from pilothouse.core.client import run
from pilothouse.measure.null_server import Timetable

STANDARD = Timetable(ttft_ms=0.0, itl_ms=10.0, tokens=32)
_IDENTITY = b'{"id":"chatcmpl-mock-0123456789abcdef","object":"chat.completion%s","created":1764000000,"model":"null",'
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_DELTA = b"data: " + _IDENTITY % b".chunk" + b'"choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}\n\n'
_USAGE = (
    b"data: " + _IDENTITY % b".chunk" + b'"choices":[],"usage":{"prompt_tokens":64,"completion_tokens":%d,'
    b'"total_tokens":%d}}\n\ndata: [DONE]\n\n'
)


def word(seconds: float) -> str:
    """A time as ten letters, the last digit first."""
    rest, letters = int(seconds * 1e6), ""
    for _ in range(10):
        rest, digit = divmod(rest, 26)
        letters += chr(97 + digit)
    return letters


def time_of(text: str) -> float:
    """The time that a word says."""
    total = 0
    for letter in reversed(text):
        total = total * 26 + ord(letter) - 97
    return total / 1e6


def _whole(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)


_ANSWER = _whole(
    b"application/json",
    _IDENTITY % b"" + b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    b"Your bag is in Lisbon and comes with the evening flight; we bring it to your hotel before ten."
    b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":64,"completion_tokens":22,"total_tokens":86}}',
)
_MODELS = _whole(b"application/json", b'{"object":"list","data":[{"id":"null","object":"model","owned_by":"mock"}]}')
_METRICS = _whole(b"text/plain; version=0.0.4", b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")


class _Request(msgspec.Struct):
    stream: bool = False
    null: Timetable | None = None


class _Server(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.body, self.path = b"", b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received = monotonic()
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def on_url(self, url: bytes) -> None:
        self.path = url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if not body:
            self.transport.write(_METRICS if self.path == b"/metrics" else _MODELS)
            return
        request = msgspec.json.decode(body, type=_Request)
        table = request.null or STANDARD
        if request.stream:
            role = _DELTA % (b'"role":"assistant","content":""', b"null")
            self.transport.write(_STREAM + b"%x\r\n%b\r\n" % (len(role), role))
            self._at(self.received + table.ttft_ms / 1e3, self._token, 1, table, self.received)
        elif table.ttft_ms:
            self._at(self.received + table.ttft_ms / 1e3, self.transport.write, _ANSWER)
        else:
            self.transport.write(_ANSWER)

    def _at(self, due: float, do: Callable[..., None], *args: object) -> None:
        """An absolute timetable, so that lateness does not add up."""
        self.timer = asyncio.get_running_loop().call_later(max(0.0, due - monotonic()), do, *args)

    def _token(self, i: int, table: Timetable, received: float) -> None:
        text = (f"{word(received)} " if i == 1 else "") + f"{word(monotonic())} "
        events = _DELTA % (b'"content":"%b"' % text.encode(), b"null")
        if i < table.tokens:
            self.transport.write(b"%x\r\n%b\r\n" % (len(events), events))
            due = received + (table.ttft_ms + i * table.itl_ms) / 1e3
            self._at(due, self._token, i + 1, table, received)
            return
        events += _DELTA % (b"", b'"stop"') + _USAGE % (table.tokens, 64 + table.tokens)
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Server, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(0, lambda: os._exit(0))
    await server.serve_forever()


class Mock:
    """The server in a process of its own, for a `with` block."""

    def __enter__(self) -> Mock:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gateway_mock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the mock upstream did not start (code {self.process.wait()})")
        self.url, self.pid = f"http://127.0.0.1:{int(line)}", self.process.pid
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    run(_serve())
