"""What came over the socket, and when? One HTTP/1.1 exchange as a raw, timestamped log; parsing is for afterwards.

The time of a read is taken first thing in the read callback (CLOCK_MONOTONIC), so the work of parsing other answers
can delay it only by what the event loop was doing at that moment. The log keeps the bytes as read, so every figure can
be computed again from it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

import httptools

from pilothouse.core.errors import UserError
from pilothouse.core.redact import mask


@dataclass(frozen=True, slots=True)
class Raw:
    """One exchange as it happened. Times: CLOCK_MONOTONIC seconds; t_send is nan when nothing was sent.

    events: (time, bytes as read) in order, response head included. t_close: when the answer was complete or failed.
    fault: '' or a word for the kind of failure: connect, reset, truncated, timeout, protocol. error says it in full.
    """

    t_sched: float
    t_send: float
    t_close: float
    events: tuple[tuple[float, bytes], ...]
    status: int
    headers: dict[str, str]
    error: str = ""
    fault: str = ""

    def pieces(self) -> list[tuple[float, bytes]]:
        """The body, chunked coding undone, each piece with the time of the read that brought it."""
        return list(_body(self.events))

    @property
    def body(self) -> bytes:
        """The body, whole."""
        return b"".join(piece for _, piece in _body(self.events))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. `path` is the prefix in front of `/v1`."""

    host: str
    port: int
    tls: bool
    path: str

    @property
    def authority(self) -> str:
        """The Host header's value."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def target(url: str) -> Target:
    """The parts of an endpoint's URL; a final `/v1` is taken off. UserError when it cannot be used."""
    shown = mask(url)
    fix = "Give it like http://127.0.0.1:8080 or https://host/prefix."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise UserError(f"the endpoint's URL {shown!r} cannot be used ({e})", fix=fix) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"the endpoint's URL {shown!r} is not an http or https address", fix=fix)
    if parts.username or parts.password:
        raise UserError("the endpoint's URL holds a user name or password", fix="Give the key as api_key instead.")
    if parts.query or parts.fragment:
        raise UserError(f"the endpoint's URL {shown!r} has a query or fragment", fix=fix)
    if any(c <= " " or c == "\x7f" for c in url):
        raise UserError(f"the endpoint's URL {shown!r} holds a space or control character", fix=fix)
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/v1").encode("ascii", "replace").decode()
    return Target(parts.hostname, port or (443 if tls else 80), tls, path)


class Connection(asyncio.Protocol):
    """One connection, one request at a time. A read is noted (time, bytes) before anybody looks at it."""

    __slots__ = ("alive", "done", "events", "fault", "headers", "parser", "status", "t_close", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.alive = False
        self.done: asyncio.Future[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.events: list[tuple[float, bytes]] = []
        self.headers: dict[str, str] = {}
        self.status = 0
        self.fault = ("", "")
        self.t_close = nan
        self.parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> tuple[float, asyncio.Future[None]]:
        """Write a request: the time of its first byte, and a future that is done when the answer is whole or failed."""
        assert self.transport is not None
        self._reset()
        self.done = asyncio.get_running_loop().create_future()
        t_send = monotonic()
        self.transport.write(request)
        return t_send, self.done

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio's
        self.alive = True

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        if self.done is None:  # bytes that nobody asked for: this connection is not fit for another request
            self.abort()
            return
        self.events.append((now, data))
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finish(now, "protocol", "the server wants to switch protocols")
        except httptools.HttpParserError as e:
            self._finish(now, "protocol", f"the answer is not valid HTTP ({e})")

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self.done is None:
            return
        read = sum(len(data) for _, data in self.events)
        if self.status and exc is None and not self.headers.keys() & {"content-length", "transfer-encoding"}:
            self._finish(monotonic())  # a body without a length ends with the connection (RFC 9112 §6.3)
        elif read:
            self._finish(monotonic(), "truncated", f"the connection closed after {read} bytes, before the answer ended")
        else:
            self._finish(monotonic(), "reset", "the server closed the connection without an answer")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_message_complete(self) -> None:
        if self.status < 200:  # an interim answer (100, 103): the real one follows
            self.headers, self.status = {}, 0
            return
        if not self.parser.should_keep_alive():
            self.alive = False
        self._finish(self.events[-1][0])

    def _finish(self, now: float, fault: str = "", error: str = "") -> None:
        done, self.done = self.done, None
        self.t_close, self.fault = now, (fault, error)
        if fault:
            self.abort()
        if done is not None and not done.done():
            done.set_result(None)

    def abort(self) -> None:
        """Drop the connection; the server sees it at once and can stop working."""
        self.alive = False
        self.done = None
        if self.transport is not None:
            self.transport.abort()


class Pool:
    """Connections to one target, used again when the last answer left them clean. Belongs to one event loop."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if target.tls else None

    async def take(self, *, fresh: bool = False) -> tuple[Connection, bool]:
        """A connection, and whether it served before. Raises OSError when none can be made."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.alive and connection.transport is not None and not connection.transport.is_closing():
                return connection, True
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, self.target.host, self.target.port, ssl=self._tls)
        return made, False

    def give(self, connection: Connection) -> None:
        """Back into the pool, or closed when it cannot serve again."""
        if connection.alive:
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().abort()


async def exchange(pool: Pool, request: bytes, *, timeout_s: float, t_sched: float | None = None) -> Raw:
    """Send one request and log the answer. Never raises for what the server or network does.

    A request that met a kept connection just as the server closed it is sent again, once, on a new one, if not a byte
    had come back. Cancelling drops the connection.
    """
    asked = monotonic()
    t_sched = asked if t_sched is None else t_sched
    connection: Connection | None = None
    t_send = nan
    try:
        async with asyncio.timeout(timeout_s):
            connection, reused = await pool.take()
            t_send, done = connection.send(request)
            await done
            if reused and connection.fault[0] == "reset":
                connection, _ = await pool.take(fresh=True)
                t_send, done = connection.send(request)
                await done
    except TimeoutError:
        now = monotonic()
        if connection is None or connection.done is None:
            return Raw(t_sched, t_send, now, (), 0, {}, f"no connection within {timeout_s:g} s", "timeout")
        read = sum(len(data) for _, data in connection.events)
        connection.abort()
        text = f"no complete answer within {timeout_s:g} s ({read} bytes came)"
        return Raw(
            t_sched, t_send, now, tuple(connection.events), connection.status, connection.headers, text, "timeout"
        )
    except OSError as e:
        return Raw(t_sched, t_send, monotonic(), (), 0, {}, _cannot_connect(pool.target, e), "connect")
    except BaseException:
        if connection is not None:
            connection.abort()
        raise
    fault, error = connection.fault
    raw = Raw(
        t_sched,
        t_send,
        connection.t_close,
        tuple(connection.events),
        connection.status,
        connection.headers,
        error,
        fault,
    )
    pool.give(connection)
    return raw


def _cannot_connect(target: Target, e: OSError) -> str:
    if isinstance(e, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(
        e
    ):  # several addresses: in the text
        reason = "connection refused: nothing listens there"
    elif isinstance(e, socket.gaierror):
        reason = "the host name is not known"
    elif isinstance(e, ssl.SSLError):
        reason = f"TLS failed: {getattr(e, 'verify_message', '') or e.reason or e}"
    else:
        reason = e.strerror or str(e) or type(e).__name__
    return f"cannot connect to {target.authority} ({reason})"


class _Body:
    """httptools callbacks that keep the body's pieces of the final answer."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)


def _body(events: tuple[tuple[float, bytes], ...]) -> Iterator[tuple[float, bytes]]:
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    for t, data in events:
        try:
            parser.feed_data(data)
            valid = True
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            valid = False
        if body.pieces:
            yield t, b"".join(body.pieces)
            body.pieces = []
        if not valid:
            return
