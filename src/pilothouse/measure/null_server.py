"""A chat server that knows the truth: it answers on a set timetable and says in each chunk when it wrote it.

Its chunks carry `"null": {"received": …, "written": …}` (CLOCK_MONOTONIC, which all processes of a machine share), so
whatever a client reports beyond that is the client's own. Run as `python -m pilothouse.measure.null_server`; it prints
its port and ends when its stdin closes. A request may set `"null": {"ttft_ms", "itl_ms", "tokens"}`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from time import monotonic
from types import TracebackType
from typing import Any, cast

import httptools
import msgspec

from pilothouse.core.client import run

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Timetable(msgspec.Struct, frozen=True):
    """When tokens are written: the first ttft_ms after the request was read, each further one itl_ms later."""

    ttft_ms: float = 50.0
    itl_ms: float = 10.0
    tokens: int = 16


class _Request(msgspec.Struct):
    stream: bool = False
    null: Timetable | None = None


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class _Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, standard: Timetable) -> None:
        self.standard = standard
        self.body: list[bytes] = []
        self.parser = httptools.HttpRequestParser(self)
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

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        content, self.body = b"".join(self.body), []
        try:
            request = msgspec.json.decode(content or b"{}", type=_Request)
        except msgspec.DecodeError as e:
            self._whole(400, {"error": {"message": str(e)}})
            return
        table = request.null or self.standard
        self.loop = asyncio.get_running_loop()
        if request.stream:
            role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
            self.transport.write(_HEAD + _chunk(_event(role)))
            self._after(table.ttft_ms, 1, table, self.received)
        else:
            message = {"role": "assistant", "content": "null " * table.tokens}
            answer = {
                "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": table.tokens},
            }
            delay = (table.ttft_ms + table.itl_ms * (table.tokens - 1)) / 1e3
            self.timer = self.loop.call_later(delay, self._whole, 200, answer)

    def _whole(self, status: int, value: dict[str, Any]) -> None:
        data = msgspec.json.encode(value)
        head = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(data))
        self.transport.write(head + data)

    def _after(self, due_ms: float, i: int, table: Timetable, received: float) -> None:
        """Write token i when due_ms have gone since the request: an absolute timetable, so lateness does not add up."""
        delay = received + due_ms / 1e3 - monotonic()
        self.timer = self.loop.call_later(max(0.0, delay), self._token, due_ms, i, table, received)

    def _token(self, due_ms: float, i: int, table: Timetable, received: float) -> None:
        value: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "null "}}]}
        value["null"] = {"received": received, "written": monotonic()}
        if i < table.tokens:
            self.transport.write(_chunk(_event(value)))
            self._after(due_ms + table.itl_ms, i + 1, table, received)
            return
        finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": table.tokens}}
        last = _event(value) + _event(finish) + _event(usage) + b"data: [DONE]\n\n"
        self.transport.write(_chunk(last) + b"0\r\n\r\n")


async def _serve(standard: Timetable) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Server(standard), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(0, lambda: os._exit(0))
    await server.serve_forever()


class NullServer:
    """The server in a process of its own, for a `with` block; `url` is where it answers."""

    def __init__(self, standard: Timetable | None = None) -> None:
        self.standard = standard or Timetable()

    def __enter__(self) -> NullServer:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pilothouse.measure.null_server", msgspec.json.encode(self.standard).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the null server did not start (code {self.process.wait()})")
        self.url = f"http://127.0.0.1:{int(line)}"
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    run(_serve(msgspec.json.decode(sys.argv[1], type=Timetable) if len(sys.argv) > 1 else Timetable()))
