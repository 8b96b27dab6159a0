"""The engine's side: pooled connections, one request at a time each, the answer handed on as it comes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from pilothouse.core.wire import Target

_CONNECT_S = 5.0
Address = Target | str
"""A host, or the path of a unix socket."""


OnHead = Callable[[int, dict[str, str], "Upstream"], None]
OnBody = Callable[[bytes], None]


class UpstreamFault(Exception):
    """The engine did not answer in full. `empty`: no byte came back; `stale`: and the connection was a kept one."""

    def __init__(
        self, message: str, *, empty: bool = False, stale: bool = False, refused: bool = False, late: bool = False
    ) -> None:
        super().__init__(message)
        self.empty, self.stale, self.refused, self.late = empty, stale, refused, late


@dataclass(frozen=True, slots=True)
class Patience:
    """How long nothing may come: before the first byte of an answer (a whole one is long in the making), and within."""

    first_s: float = 300.0
    next_s: float = 60.0


class Upstream(asyncio.Protocol):
    """One connection to an engine. `on_head(status, headers, self)` then `on_body(data)` are called as bytes arrive."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.used = False
        self._done: asyncio.Future[None] | None = None
        self._on_head: OnHead | None = None
        self._on_data: OnBody | None = None
        self._keep = True
        self._bytes = 0
        self._patience = Patience()
        self._deadline, self._timer = 0.0, cast(asyncio.TimerHandle | None, None)

    @property
    def alive(self) -> bool:
        """Fit for another request?"""
        return self._keep and self.transport is not None and not self.transport.is_closing()

    async def exchange(self, request: bytes, on_head: OnHead, on_body: OnBody, patience: Patience) -> None:
        """Send, hand on, return when the answer is whole; UpstreamFault when it never will be."""
        if self.transport is None:
            raise UpstreamFault("the engine closed the connection", stale=self.used)
        loop = asyncio.get_running_loop()
        self._patience, self._deadline = patience, loop.time() + patience.first_s
        self._timer = loop.call_later(min(patience.first_s, patience.next_s), self._tick)
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._status, self._bytes = 0, 0
        self._on_head, self._on_data = on_head, on_body
        self._done = loop.create_future()
        self.transport.write(request)
        try:
            await self._done
        except asyncio.CancelledError:
            self.abort()  # the engine sees the connection go and stops generating
            raise
        finally:
            self._timer.cancel()
        self.used = True

    def pause(self, paused: bool) -> None:
        """Stop or go on reading, so that a slow client slows the engine and not our memory."""
        if self.transport is not None and not self.transport.is_closing():
            self._deadline = asyncio.get_running_loop().time() + self._patience.next_s
            self.transport.pause_reading() if paused else self.transport.resume_reading()

    def stop(self) -> None:
        """Enough: the exchange ends without a fault, the connection is dropped, the engine stops generating."""
        self._keep = False
        self._finish(None)
        if self.transport is not None:
            self.transport.abort()

    def abort(self) -> None:
        """Drop the connection now."""
        self._keep, self._done = False, None
        if self.transport is not None:
            self.transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        made = self.transport.get_extra_info("socket")
        if made is not None and made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self.abort()
            return
        self._bytes += len(data)
        self._deadline = asyncio.get_running_loop().time() + self._patience.next_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as e:
            self._finish(UpstreamFault(f"the answer could not be handed on ({e.__context__!r})"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as e:
            self._finish(UpstreamFault(f"the engine's answer is not valid HTTP ({e})"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._done is None:
            return
        if self._status and not self._headers.keys() & {"content-length", "transfer-encoding"} and exc is None:
            self._finish(None)
        elif self._bytes:
            self._finish(UpstreamFault("the engine ended before its answer was whole"))
        else:
            self._finish(
                UpstreamFault("the engine closed the connection without an answer", empty=True, stale=self.used)
            )

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status >= 200 and self._on_head:
            self._on_head(self._status, self._headers, self)

    def on_body(self, data: bytes) -> None:
        if self._on_data:
            self._on_data(data)

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._headers = {}
            return
        self._keep = self._parser.should_keep_alive()
        self._finish(None)

    def _tick(self) -> None:
        """Has nothing moved for too long? Looked at now and then, so that a chunk costs no timer of its own."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._tick)
        elif self._bytes:
            self._finish(UpstreamFault(f"nothing moved for {self._patience.next_s:g} s", late=True))
        else:
            self._finish(UpstreamFault(f"the engine did not answer within {self._patience.first_s:g} s", late=True))

    def _finish(self, fault: UpstreamFault | None) -> None:
        done, self._done = self._done, None
        self._on_head = self._on_data = None
        if done is None or done.done():
            return
        if fault is None:
            done.set_result(None)
        else:
            self.abort()
            done.set_exception(fault)


class Pool:
    """Kept connections by address."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._idle: dict[Address, list[Upstream]] = {}
        self._tls: ssl.SSLContext | None = None

    async def exchange(
        self,
        address: Address,
        request: bytes,
        on_head: OnHead,
        on_body: OnBody,
    ) -> None:
        """One request. A kept connection that the engine had just closed is replaced once, if nothing came back."""
        for fresh in (False, True):
            connection = await self._take(address, fresh=fresh)
            try:
                await connection.exchange(request, on_head, on_body, self._patience)
            except UpstreamFault as fault:
                if fault.stale and not fresh:
                    continue
                raise
            if connection.alive:
                self._idle.setdefault(address, []).append(connection)
            return

    def close(self) -> None:
        """Close every idle connection."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def _take(self, address: Address, *, fresh: bool) -> Upstream:
        idle = self._idle.get(address, [])
        while idle and not fresh:
            connection = idle.pop()
            if connection.alive:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                if isinstance(address, str):
                    _, made = await loop.create_unix_connection(Upstream, address)
                else:
                    if address.tls and self._tls is None:
                        self._tls = ssl.create_default_context()
                    secure = self._tls if address.tls else None
                    _, made = await loop.create_connection(Upstream, address.host, address.port, ssl=secure)
        except TimeoutError:
            raise UpstreamFault(f"no connection to the engine within {_CONNECT_S:g} s", refused=True) from None
        except OSError as e:
            raise UpstreamFault(f"the engine cannot be reached ({e.strerror or e})", refused=True) from None
        return made
