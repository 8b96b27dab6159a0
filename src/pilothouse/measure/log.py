"""The raw event log of a load: JSON lines from which every figure, ours or another tool's, can be computed again.

Line 1 is the head, then one line a request in the order of their ends, last the tail. Bytes are base64 as read from the
socket; the endpoint's key is blanked in them. A log without a tail is of a load that was cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import nan
from pathlib import Path

import msgspec

from pilothouse.core.wire import Raw
from pilothouse.core.wire_chat import completion
from pilothouse.measure.base import Result


class Head(msgspec.Struct, frozen=True, tag="head"):
    """What was asked for. zero: CLOCK_MONOTONIC of offset 0; wall: the same moment since the epoch."""

    zero: float
    wall: float
    offered: int


class Exchange(msgspec.Struct, frozen=True, tag="exchange"):
    """One request: its number in the schedule, which of the distinct requests it was, and its raw log."""

    index: int
    request: int
    t_sched: float
    t_send: float | None
    t_close: float
    status: int
    fault: str
    error: str
    headers: dict[str, str]
    events: tuple[tuple[float, bytes], ...]


class Tail(msgspec.Struct, frozen=True, tag="tail"):
    """How late the client's own event loop ran while the load was on: ms, one value a heartbeat."""

    loop_lag_ms: tuple[float, ...]


class Log(msgspec.Struct, frozen=True):
    """A whole log, read back; exchanges in the order of the schedule."""

    head: Head
    exchanges: tuple[Exchange, ...]
    tail: Tail


_LINE = msgspec.json.Decoder(Head | Exchange | Tail)


def entry(index: int, request: int, raw: Raw, secret: str) -> Exchange:
    """The line of one exchange, the key blanked without changing a length (the bytes stay parseable)."""
    key = secret.encode()
    blank = b"*" * len(key)
    return Exchange(
        index=index,
        request=request,
        t_sched=raw.t_sched,
        t_send=None if raw.t_send != raw.t_send else raw.t_send,
        t_close=raw.t_close,
        status=raw.status,
        fault=raw.fault,
        error=raw.error.replace(secret, "***") if secret else raw.error,
        headers={k: v.replace(secret, "***") for k, v in raw.headers.items()} if secret else raw.headers,
        events=tuple((t, data.replace(key, blank)) for t, data in raw.events) if key else raw.events,
    )


def raw(exchange: Exchange) -> Raw:
    """The exchange as the client gave it."""
    return Raw(
        exchange.t_sched,
        nan if exchange.t_send is None else exchange.t_send,
        exchange.t_close,
        exchange.events,
        exchange.status,
        exchange.headers,
        exchange.error,
        exchange.fault,
    )


def read(path: Path) -> Log:
    """A log from its file. ValueError when it was cut off."""
    head: Head | None = None
    tail: Tail | None = None
    exchanges: list[Exchange] = []
    with path.open("rb") as lines:
        for line in lines:
            record = _LINE.decode(line)
            if isinstance(record, Exchange):
                exchanges.append(record)
            elif isinstance(record, Head):
                head = record
            else:
                tail = record
    if head is None or tail is None or len(exchanges) != head.offered:
        raise ValueError(f"{path} is the log of a load that was cut off ({len(exchanges)} requests in it)")
    return Log(head, tuple(sorted(exchanges, key=lambda e: e.index)), tail)


def results(log: Log) -> list[Result]:
    """Every offered request, parsed from its bytes: open-loop timing, tokens, failure."""
    return list(_results(log))


def _results(log: Log) -> Iterable[Result]:
    for e in log.exchanges:
        answer = completion(raw(e), open_loop=True)
        assert answer.timing is not None
        yield Result(
            index=e.index,
            at=e.t_sched - log.head.zero,
            fault=answer.fault,
            error=answer.error,
            timing=answer.timing,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
