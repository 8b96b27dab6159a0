"""The engine's side: pooled connections, one request at a time each, the answer handed on as it comes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, cast

import httptools

from pilothouse.core.wire import Target

_CONNECT_S = 5.0
_LOOK_S = 0.5
_IDLE_S = 55.0
"""How long a kept connection is kept: less than most servers' own patience."""
_HEAD_LIMIT = 64 * 1024
_WHOLE_LIMIT = 256 << 20
"""An answer that is no stream of events is held in memory until it is whole."""
_NEVER = float("inf")
Address = Target | str
"""A host, or the path of a unix socket."""


class UpstreamFault(Exception):
    """The engine did not answer in full.

    empty: no byte came back; stale: and the connection was a kept one; refused: it was never sent; late: too slow.
    """

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


class Sink(Protocol):
    """Who takes an answer: `on_head` once, then `on_body` as bytes arrive, in the read callback."""

    def on_head(self, status: int, headers: dict[str, str], upstream: Upstream) -> None: ...
    def on_body(self, data: bytes) -> None: ...


class Answer(Sink, Protocol):
    """An answer on its way to the caller. begun: bytes of it have gone out."""

    begun: bool
    status: int

    def finish(self) -> None: ...


class Upstream(asyncio.Protocol):
    """One connection to an engine."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.used, self.since = False, 0.0
        self.deadline = 0.0
        self._done: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._keep = True
        self._bytes, self._status = 0, 0
        self._limit: float = _HEAD_LIMIT
        self._paused = False
        self._patience = Patience()
        self._headers: dict[str, str] = {}
        self._raw: list[tuple[bytes, bytes]] = []
        self._parser = httptools.HttpResponseParser(self)

    @property
    def alive(self) -> bool:
        """Fit for another request?"""
        return self._keep and self.transport is not None and not self.transport.is_closing()

    def start(self, request: bytes, sink: Sink, patience: Patience) -> asyncio.Future[None]:
        """Send. The future is done when the answer is whole; it raises UpstreamFault when it never will be."""
        done = self._done = asyncio.get_running_loop().create_future()
        self._patience, self.deadline = patience, monotonic() + patience.first_s
        self._headers, self._status, self._bytes, self._sink, self._limit = {}, 0, 0, sink, _HEAD_LIMIT
        if self.transport is None:
            self._finish(UpstreamFault("the engine closed the connection", stale=self.used))
        else:
            self.transport.write(request)
        return done

    def pause(self, paused: bool) -> None:
        """Stop or go on reading, so that a slow client slows the engine and not our memory. Meanwhile the engine is not
        late: the client's own deadline counts, else clients who do not read could open the engine's circuit."""
        if paused != self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = paused
            self.deadline = _NEVER if paused else monotonic() + self._patience.next_s
            self.transport.pause_reading() if paused else self.transport.resume_reading()

    def stop(self) -> None:
        """Enough: the exchange ends without a fault, the connection is dropped, the engine stops generating."""
        self._keep = False
        self._finish(None)
        if self.transport is not None:
            self.transport.abort()

    def abort(self) -> None:
        """Drop the connection now; the engine sees it go and stops generating."""
        self._keep, self._done, self._sink = False, None, None
        if self.transport is not None:
            self.transport.abort()

    def overdue(self) -> None:
        """Nothing has moved for too long."""
        if self._bytes:
            self._finish(UpstreamFault(f"nothing moved for {self._patience.next_s:g} s", late=True))
        else:
            self._finish(UpstreamFault(f"the engine did not answer within {self._patience.first_s:g} s", late=True))

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
        if not self._paused:
            self.deadline = monotonic() + self._patience.next_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as e:
            why = e.__context__
            told = why if isinstance(why, UpstreamFault) else None
            self._finish(told or UpstreamFault(f"the answer could not be handed on ({why!r})"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as e:
            self._finish(UpstreamFault(f"the engine's answer is not valid HTTP ({e})"))
        if self._bytes > self._limit:
            self._finish(UpstreamFault("the engine's answer does not end" if self._status else "its head does not end"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        del self._parser  # it leads back here: a closed connection would wait for the collector
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

    def on_message_begin(self) -> None:
        if self._done is None:
            self._keep = False  # a second answer to one request: its end must not be taken for the next caller's

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        self._headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in self._raw}
        self._raw.clear()
        self._status = self._parser.get_status_code()
        if self._status >= 200 and self._sink is not None:
            events = self._status == 200 and self._headers.get("content-type", "").startswith("text/event-stream")
            self._limit = _NEVER if events else _WHOLE_LIMIT
            self._sink.on_head(self._status, self._headers, self)

    def on_body(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.on_body(data)

    def on_message_complete(self) -> None:
        if self._done is None:
            return
        if self._status < 200:
            self._headers, self._status = {}, 0
            return
        self._keep = self._parser.should_keep_alive()
        self._finish(None)

    def _finish(self, fault: UpstreamFault | None) -> None:
        done, self._done, self._sink = self._done, None, None
        if done is None or done.done():
            return
        if fault is None:
            self.used, self.since = True, monotonic()
            self.pause(False)  # the next caller must not wait for a client that does not read
            done.set_result(None)
        else:
            self.abort()
            done.set_exception(fault)


class Pool:
    """Kept connections by address. One timer looks after all deadlines: one a request would cost more."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._idle: dict[Address, list[Upstream]] = {}
        self._busy: set[Upstream] = set()
        self._tls: ssl.SSLContext | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, address: Address, request: bytes, sink: Sink) -> None:
        """One request. A kept connection that the engine had just closed is replaced once, if nothing came back.

        Cancelling drops the connection.
        """
        for fresh in (False, True):
            connection = self.kept(address) if not fresh else None
            if connection is None:
                connection = await self.connect(address)
            try:
                await self.ask(connection, address, request, sink)
            except UpstreamFault as fault:
                if fault.stale and not fresh:
                    continue
                raise
            return

    async def ask(self, connection: Upstream, address: Address, request: bytes, sink: Sink) -> None:
        """One request on this connection, which then goes back to the kept ones."""
        busy = self._busy
        busy.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._look_after(), self._look)
        try:
            await connection.start(request, sink, self.patience)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            busy.discard(connection)
        if connection.alive:
            self._idle.setdefault(address, []).append(connection)

    def kept(self, address: Address) -> Upstream | None:
        """An idle connection that still lives."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.alive and monotonic() - connection.since < _IDLE_S:
                return connection
            connection.abort()
        return None

    async def connect(self, address: Address) -> Upstream:
        """A new connection; UpstreamFault `refused` when there is none."""
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

    def close(self) -> None:
        """Close every idle connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _look_after(self) -> float:
        return min(_LOOK_S, self.patience.first_s / 2, self.patience.next_s / 2)

    def _look(self) -> None:
        now = monotonic()
        for connection in [c for c in self._busy if c.deadline < now]:
            connection.overdue()
        for address, idle in list(self._idle.items()):  # engines that restart leave addresses behind
            kept = [c for c in idle if c.alive and now - c.since < _IDLE_S]
            for connection in set(idle) - set(kept):
                connection.abort()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        again = bool(self._busy or self._idle)
        self._timer = asyncio.get_running_loop().call_later(self._look_after(), self._look) if again else None
