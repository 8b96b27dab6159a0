"""The client's side of a connection: requests in (one at a time, in order), answers out, whole or streamed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import monotonic
from typing import cast
from urllib.parse import unquote

import httptools

HEAD_LIMIT = 32 * 1024
_IDLE_S = 75.0
_HEAD_S = 15.0
_BODY_S = 60.0
_UNREAD_S = 60.0
_LINGER_S = 2.0
_LINE = 32
"""About what a request has besides its URL, headers and body: method, version, line ends."""
_PIECES = 512
"""Pieces of a body kept apart; a body sent in more of them (a byte each) would cost forty times its size."""
_ONCE = (b"host", b"content-length", b"transfer-encoding")
_PHRASES = {s.value: s.phrase.encode() for s in HTTPStatus}
_NEVER = float("inf")
OVERHEAD_HEADER = "x-pilothouse-overhead-us"


class Request:
    """One request, whole. Header names are lower case. at: when its last byte was read (CLOCK_MONOTONIC)."""

    __slots__ = ("at", "body", "headers", "method", "path", "raw_headers", "target", "version")

    def __init__(self) -> None:
        self.at = 0.0
        self.method, self.target, self.path, self.version = "", b"", "", "1.1"
        self.headers: dict[str, str] = {}
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.body = b""


class Reply:
    """The answer to one request. When the client has left, writing does nothing."""

    __slots__ = ("_bodiless", "_chunked", "_connection", "_keep", "at", "id_header", "request_id", "started", "status")

    def __init__(self, connection: Connection, keep: bool, *, chunked: bool = True, bodiless: bool = False) -> None:
        self._connection, self._keep, self._chunked, self._bodiless = connection, keep, chunked, bodiless
        self.started, self.status, self.request_id, self.at = False, 0, "", 0.0
        self.id_header = "x-request-id"

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        """A whole answer."""
        head = self._head(status, kind, headers, b"content-length: %d\r\n" % len(body))
        self._connection.write(head if self._bodiless else head + body)  # in one: each write is a call to the kernel

    def begin(self, status: int, kind: str = "text/event-stream", **headers: str) -> None:
        """The head of an answer whose length is not known yet."""
        length = b"cache-control: no-cache\r\n"
        if self._chunked:
            length += b"transfer-encoding: chunked\r\n"
        else:  # HTTP/1.0: the end of the connection is the end of the body
            self._keep = False
        self._connection.write(self._head(status, kind, headers, length))

    def write(self, data: bytes) -> None:
        """A piece of a streamed body."""
        transport = self._connection.transport
        if data and transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """The body is whole."""
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """The body cannot be finished: end the connection so that the client notices."""
        self._keep = False

    @property
    def local(self) -> bool:
        """Is the client a process of this machine?"""
        return self._connection.local

    @property
    def congested(self) -> bool:
        """Does the client read more slowly than we write?"""
        return self._connection.congested

    def when_writable(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, when the client has caught up (or left)."""
        self._connection.go_on = go_on

    @property
    def keep(self) -> bool:
        """May the connection be used again?"""
        return self._keep

    def _head(self, status: int, kind: str, headers: dict[str, str], length: bytes) -> bytes:
        self.started, self.status = True, status
        if self.request_id:
            headers[self.id_header] = headers["x-request-id"] = self.request_id
        if OVERHEAD_HEADER not in headers:  # whoever asked an engine has said it without the engine's part
            headers[OVERHEAD_HEADER] = str(int((monotonic() - self.at) * 1e6)) if self.at else "0"
        more = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b%bconnection: %b\r\n\r\n" % (
            status,
            _PHRASES.get(status, b"Status"),
            kind.encode("latin-1"),
            length,
            more.encode("latin-1"),
            b"keep-alive" if self._keep else b"close",
        )


Handler = Callable[[Request, Reply], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client connection. Cancels the running handler when the client leaves."""

    def __init__(self, handler: Handler, body_limit: int, connections: set[Connection]) -> None:
        self._handler, self._limit, self._connections = handler, body_limit, connections
        self.transport: asyncio.Transport | None = None
        self.congested = False
        self.go_on: Callable[[], None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request, bool] | int] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self.busy = False
        """Is a request being answered?"""
        self.deadline = _NEVER
        self._request, self._parts, self._size = Request(), list[bytes | bytearray](), 0
        self._head_size, self._told, self._untold = 0, 0, 0
        self._in_head = self._in_message = False
        self._refused = self._paused = False

    @property
    def gone(self) -> bool:
        """Has the client left?"""
        return self.transport is None

    @property
    def local(self) -> bool:
        """Is the client a process of this machine? (It has loopback's address, or the one it called.)"""
        if self.transport is None:
            return False
        peer, own = self.transport.get_extra_info("peername"), self.transport.get_extra_info("sockname")
        if not isinstance(peer, tuple) or not isinstance(own, tuple):
            return True  # a unix socket
        return peer[0] == own[0] or str(peer[0]).startswith("127.") or peer[0] == "::1"

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self.deadline = monotonic() + _IDLE_S
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._connections.discard(self)
        self.resume_writing()
        if self._task:
            self._task.cancel()
        del self._parser, self._task  # each leads back here: a closed connection would wait for the collector

    def pause_writing(self) -> None:
        self.congested, self.deadline = True, monotonic() + _UNREAD_S

    def resume_writing(self) -> None:
        self.congested, self.deadline = False, _NEVER if self.busy else monotonic() + _IDLE_S
        go_on, self.go_on = self.go_on, None
        if go_on is not None:
            go_on()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._told, fed = 0, 0
        while data:
            fed += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as e:
                if not self._refused:
                    data = self._not_upgraded() + data[e.args[0] :]
                    continue
            except httptools.HttpParserError:
                self._refuse(400)
            break
        if self._in_head:  # the parser tells of a header when it is whole: one without an end is what it did not tell
            self._untold += fed - self._told
            if self._untold > HEAD_LIMIT:
                self._refuse(431)

    def eof_received(self) -> bool:
        return False

    # httptools

    def on_message_begin(self) -> None:
        self._request, self._parts, self._size = Request(), [], 0
        self._head_size, self._untold, self._in_head, self._in_message = 0, 0, True, True
        if not self.busy and not self.congested:
            self.deadline = monotonic() + _HEAD_S

    def on_url(self, url: bytes) -> None:
        self._request.target += url
        self._head_size += len(url)
        self._told += len(url)
        if self._head_size > HEAD_LIMIT:
            self._refuse(431)

    def on_header(self, name: bytes, value: bytes) -> None:
        n = len(name) + len(value) + 4
        self._head_size += n
        self._told += n
        if self._head_size > HEAD_LIMIT:
            self._refuse(431)
        if not self._in_head:
            return  # a trailer: merged into the head it could say what the head must not (RFC 9110 §6.5.1)
        self._request.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._request
        self._in_head, self._told = False, self._told + _LINE
        if not self.busy and not self.congested:
            self.deadline = monotonic() + _BODY_S
        headers = request.headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in request.raw_headers}
        request.method = self._parser.get_method().decode("ascii")
        request.version = self._parser.get_http_version()
        path = request.target.partition(b"?")[0].decode("latin-1")
        request.path = unquote(path) if "%" in path else path
        if (fault := _fault(request)) is not None:
            self._refuse(fault)
            return
        if "upgrade" in headers and self._parser.should_upgrade():
            return  # the head comes again without it
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            self._refuse(413)
        elif "expect" in headers and headers["expect"].lower() == "100-continue" and not self.busy:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        self._told += len(data)
        if self._size > self._limit:
            self._refuse(413)
        elif not self._refused:
            parts = self._parts
            if len(parts) < _PIECES:
                parts.append(data)
            elif len(parts) == _PIECES:
                parts.append(bytearray(data))
            else:
                parts[-1] += data

    def on_message_complete(self) -> None:
        if self._refused or ("upgrade" in self._request.headers and self._parser.should_upgrade()):
            return
        self._request.body, self._parts, self._in_message = b"".join(self._parts), [], False
        self._request.at = monotonic()
        self._queue.append((self._request, self._parser.should_keep_alive()))
        self._go()
        if (self.busy or self.congested) and self.transport:
            self._paused = True
            self.transport.pause_reading()  # a pipelining client waits until its requests are answered

    # answers

    def write(self, data: bytes) -> None:
        """Bytes to the client, while it is there."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End the connection after what is written; a client that does not even read is not waited for."""
        if self.transport is None:
            return
        if self.congested:
            self.transport.abort()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """The client may still be sending what we refused. Closing now would reset the connection and lose our answer
        (RFC 9112 §9.6): say that we are done, and read on for a moment."""
        if self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER_S, self.close)

    def _go(self) -> None:
        """There is something to answer."""
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _serve(self) -> None:
        """Answer what comes, one request after another. One task a connection: one a request would cost more."""
        loop = asyncio.get_running_loop()
        while self.transport is not None:
            if not self._queue:
                self._wake = loop.create_future()
                await self._wake
                continue
            item = self._queue.popleft()
            if isinstance(item, int):
                body = b'{"error":{"message":"%b","type":"invalid_request_error","code":null,"param":null}}'
                said = _PHRASES[item]
                if item == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    said += b": more than %d kB (serve.max_body_kb)" % (self._limit // 1024)
                Reply(self, False).send(item, body % said)
                self._linger()
                return
            request, keep = item
            self.busy, self.deadline = True, _NEVER
            reply = Reply(self, keep, chunked=request.version != "1.0", bodiless=request.method == "HEAD")
            reply.at = request.at
            try:
                await self._handler(request, reply)
            except Exception as e:
                loop.call_exception_handler({"message": "a request could not be answered", "exception": e})
                reply.cut()
            finally:
                self.busy = False
            if self.gone:
                return
            if not reply.keep:
                self.close()
                return
            self.deadline = monotonic() + (_UNREAD_S if self.congested else _IDLE_S)
            while self.congested:  # who asks on without reading gets no further answer put on the heap
                self._wake, self.go_on = loop.create_future(), self._go
                await self._wake
            if self._paused and not self._queue:
                self._paused = False
                self.transport.resume_reading()

    def _refuse(self, status: int) -> None:
        """No further bytes of this connection are understood: answer in turn, then close."""
        if not self._refused:
            self._refused = True
            self._queue.append(status)
            self._go()

    def _not_upgraded(self) -> bytes:
        """The head once more, without the wish to speak another protocol: we may pass it over (RFC 9110 §7.8), and
        Java's own client asks for HTTP/2 in this way with every first request. The parser would pass over the body."""
        request = self._request
        line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.target)
        headers = [b"%b: %b\r\n" % (n, v) for n, v in request.raw_headers if n.lower() != b"upgrade"]
        return b"%b%b\r\n" % (line, b"".join(headers))

    def overdue(self) -> None:
        """The deadline has passed (whoever listens looks at it now and then: a timer a request would cost more)."""
        self.deadline = _NEVER
        if self.congested:
            self.close()
        elif not self.busy and self._in_message:
            self._refuse(408)
        elif not self.busy:
            self.close()


def _fault(request: Request) -> int | None:
    """What the parser lets pass and RFC 9112 does not: two readers of one stream must see the same requests."""
    headers = request.headers
    if request.version != "1.1":
        if request.version != "1.0":
            return 505
        if "transfer-encoding" in headers:
            return 400  # §6.1: its framing cannot be trusted
    elif "host" not in headers:
        return 400  # §3.2
    if "transfer-encoding" in headers and headers["transfer-encoding"].lower() != "chunked":
        return 501
    if len(headers) != len(request.raw_headers):
        names = [name.lower() for name, _ in request.raw_headers]
        if any(names.count(name) > 1 for name in _ONCE):
            return 400
    return 501 if request.method == "CONNECT" else None
