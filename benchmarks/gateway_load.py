"""How is a front asked? Whole answers with N connections kept busy, N streams at a time, and one stream after another.

The client costs a few microseconds a request (printed beside the results), does nothing but HTTP while the clock runs,
and looks at what the answers say only afterwards.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import httptools
import msgspec

from benchmarks.gateway_mock import time_of
from pilothouse.core.sse import SseParser
from pilothouse.core.wire import Pool, Raw, Target, exchange, target

MESSAGES = [
    {"role": "system", "content": "You answer the customers of an airline, briefly and with what the rules say."},
    {"role": "user", "content": "Where is my bag? I landed in Lisbon this morning and it did not come."},
]


def ask(url: str, headers: Mapping[str, str], *, stream: bool, **body: Any) -> tuple[Target, bytes]:
    """Where a chat request goes and its bytes (about 300 of body)."""
    where = target(url)
    fields = {"model": "null", "messages": MESSAGES, "max_tokens": 64, "temperature": 0.0, "stream": stream, **body}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    content = msgspec.json.encode(fields)
    lines = [
        f"POST {where.path}/v1/chat/completions HTTP/1.1",
        f"Host: {where.authority}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return where, "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Tally:
    """What became of a number of requests."""

    total: int
    started: int = 0
    ok: int = 0
    errors: int = 0
    why: str = ""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, fault: str) -> None:
        """One more has ended."""
        if fault:
            self.errors, self.why = self.errors + 1, self.why or fault
        else:
            self.ok += 1
        if self.ok + self.errors >= self.total:
            self.done.set()


class _Busy(asyncio.Protocol):
    """One connection that asks again as soon as it is answered; never two requests at once."""

    def __init__(self, request: bytes, tally: Tally, closed: asyncio.Future[None]) -> None:
        self.request, self.tally, self.closed = request, tally, closed
        self.asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpResponseParser(self)
        self._next()

    def _next(self) -> None:
        if self.tally.started >= self.tally.total:
            self.transport.close()
            return
        self.tally.started += 1
        self.asking = True
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._ended(f"not HTTP: {e}")
            self.transport.abort()

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        self._ended("" if status == 200 else f"HTTP {status}")
        if self.parser.should_keep_alive():
            self._next()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended("the connection was closed")
        if not self.closed.done():
            self.closed.set_result(None)

    def _ended(self, fault: str) -> None:
        if self.asking:
            self.asking = False
            self.tally.note(fault)


async def requests(where: Target, request: bytes, *, total: int, at_once: int, timeout_s: float = 60) -> Tally:
    """`total` whole answers, `at_once` in flight all the time. A front that closes gets a new connection."""
    tally, loop = Tally(total), asyncio.get_running_loop()

    async def keep_busy() -> None:
        while tally.started < total:
            closed = loop.create_future()
            await loop.create_connection(partial(_Busy, request, tally, closed), where.host, where.port)
            await closed

    async with asyncio.timeout(timeout_s):
        await asyncio.gather(*(keep_busy() for _ in range(min(at_once, total))))
        await tally.done.wait()
    return tally


async def streams(where: Target, request: bytes, *, at_once: int, times: int = 1, timeout_s: float = 60) -> list[Raw]:
    """`at_once` streams started together, `times` over; their raw logs."""
    pool, raws = Pool(where), list[Raw]()
    for _ in range(times):
        raws += await asyncio.gather(*(exchange(pool, request, timeout_s=timeout_s) for _ in range(at_once)))
    pool.close()
    return raws


def check(raws: list[Raw], tokens: int) -> Tally:
    """Which streams came whole: every token, then the end."""
    tally = Tally(len(raws))
    for raw in raws:
        words = 0 if raw.error else len(list(_words(raw)))
        whole = words == tokens + 1 and raw.body.rstrip().endswith(b"data: [DONE]")
        tally.note(raw.error or ("" if whole else f"HTTP {raw.status}, {words} words of {tokens + 1}"))
    return tally


@dataclass
class Lags:
    """Microseconds between client and upstream, both ways: of the first token, and of each further chunk."""

    first: list[float]
    later: list[float]

    def p50(self) -> tuple[float, float]:
        """Medians of both."""
        return statistics.median(self.first), statistics.median(self.later)


async def paced(where: Target, request: bytes, *, times: int) -> Lags:
    """One stream after another."""
    pool, lags = Pool(where), Lags([], [])
    for _ in range(times):
        raw = await exchange(pool, request, timeout_s=30)
        if raw.error or raw.status != 200:
            raise RuntimeError(f"{where.authority}: {raw.error or raw.body[:200]!r}")
        (_, received), (read, written), *rest = _words(raw)
        lags.first.append(((received - raw.t_send) + (read - written)) * 1e6)
        lags.later += [(read - written) * 1e6 for read, written in rest]
    pool.close()
    return lags


def _words(raw: Raw) -> Iterator[tuple[float, float]]:
    """(when its last letter was read, the time it says) of each word in the answer's text."""
    parser, text = SseParser(), ""
    for t, piece in raw.pieces():
        for event in parser.feed(piece):
            if event.data.strip() == b"[DONE]":
                continue
            for choice in msgspec.json.decode(event.data).get("choices") or ():
                text += choice["delta"].get("content") or ""
            *words, text = text.split(" ")
            yield from ((t, time_of(word)) for word in words)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def exact(where: Target, request: bytes) -> dict[str, Any]:
    """One whole answer, read in full: what a front must answer before it is measured."""
    pool = Pool(where)
    raw = await exchange(pool, request, timeout_s=30)
    pool.close()
    if raw.error or raw.status != 200:
        raise RuntimeError(f"{where.authority}: HTTP {raw.status} {raw.error or raw.body[:300]!r}")
    answer: dict[str, Any] = msgspec.json.decode(raw.body)
    return answer


__all__ = ["Lags", "Tally", "ask", "check", "exact", "paced", "percentile", "requests", "streams"]
