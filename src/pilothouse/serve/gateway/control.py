"""What a gateway's process and the one that looks after it say to each other: typed messages over a socket pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from pilothouse.serve.gateway.limits import Key, Price
from pilothouse.serve.gateway.record import Exchange
from pilothouse.serve.gateway.routing.fleet import Member

_HEAD = 4
BUFFER_LIMIT = 8 << 20
"""Bytes that may wait to be taken by the other side; beyond that, records are dropped and counted."""


class Configure(msgspec.Struct, tag=True, frozen=True, omit_defaults=True):
    """Settings, at the start and whenever they change. policy: a guard's settings as JSON, its files in a folder."""

    policy: bytes = b""
    policy_folder: str = ""
    keys: tuple[Key, ...] = ()
    body_limit: int = 1 << 20
    admission: str = "none"
    ttft_s: float | None = None
    price: Price = Price()
    wait_ready_s: float = 15.0
    hedge_s: float | None = None
    first_s: float = 300.0
    next_s: float = 60.0
    traced: bool = False
    keeps_text: bool = False
    tls_cert: str = ""
    tls_key: str = ""


class Listen(msgspec.Struct, tag=True, frozen=True):
    """Begin to take connections. proxy: the console's socket ('': none)."""

    host: str
    port: int
    public: bool
    proxy: str
    records: bool
    shares_port: bool


class Members(msgspec.Struct, tag=True, frozen=True):
    """The fleet as it is now."""

    members: tuple[Member, ...]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Drain, then end."""

    drain_s: float


class Kept(msgspec.Struct, tag=True, frozen=True):
    """The answer to Feedback."""

    number: int
    known: bool


class Listening(msgspec.Struct, tag=True, frozen=True):
    """It takes connections on this port; or why it cannot."""

    port: int = 0
    error: str = ""


class Exchanges(msgspec.Struct, tag=True, frozen=True):
    """What has been answered."""

    exchanges: list[Exchange]


class Feedback(msgspec.Struct, tag=True, frozen=True):
    """Feedback to keep; the other side says whether it knows the exchange."""

    number: int
    exchange: str
    kind: str
    value: str


Down = Configure | Listen | Members | Stop | Kept
Up = Listening | Exchanges | Feedback


class Channel(asyncio.Protocol):
    """One end of the pair. heard: called with every message; lost: when the other end has gone."""

    def __init__(self, messages: Any, heard: Callable[[object], None], lost: Callable[[], None]) -> None:
        self._decoder = msgspec.msgpack.Decoder(messages)
        self._heard, self._lost = heard, lost
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()

    @property
    def full(self) -> bool:
        """Does the other end take messages more slowly than we make them?"""
        return self._transport is None or self._transport.get_write_buffer_size() > BUFFER_LIMIT

    def send(self, message: Down | Up) -> None:
        """Send, unless the other end has gone."""
        data = msgspec.msgpack.encode(message)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(data).to_bytes(_HEAD, "big") + data)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= _HEAD:
            end = _HEAD + int.from_bytes(self._rest[:_HEAD], "big")
            if len(self._rest) < end:
                return
            message = self._decoder.decode(memoryview(self._rest)[_HEAD:end].tobytes())
            del self._rest[:end]
            self._heard(message)
