"""How fast was one answer? The single home of the formulas; every figure of speed in Pilothouse comes from here.

All times are CLOCK_MONOTONIC seconds, taken in the socket's read callback. A content event i is a chunk that brought
k_i tokens at t_i (text, reasoning or a tool call; a role-only chunk is none); N = Σ k_i.

    dispatch lag   t_send − t_sched
    TTFT           t_1 − t_sched in an open loop, t_1 − t_send in a closed one
    TPOT           (t_last − t_1) / (N − k_1), defined for N > k_1; one unweighted value a request
    gap i          t_i − t_(i−1), i ≥ 2 (inter-chunk latency)
    ITL            gap_i / k_i, weighted by k_i when pooled
    stall          max gap_i
    latency        t_close − t_sched

(DESIGN section 5. In an open loop a late start is the client's fault or the queue's, never a saving: MLPerf's rule.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Counting = Literal["logprobs", "usage", "chunks"]


@dataclass(frozen=True, slots=True)
class Event:
    """k tokens of content at time t."""

    t: float
    k: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one content chunk shows before tokens are counted: its characters, and its tokens if it lists them."""

    t: float
    chars: int
    listed: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one request. Properties are seconds, or None where the figure is not defined."""

    t_sched: float
    t_send: float
    t_close: float
    events: tuple[Event, ...] = ()
    open_loop: bool = False
    counting: Counting = "chunks"

    @property
    def tokens(self) -> float:
        """N = Σ k_i."""
        return sum(e.k for e in self.events)

    @property
    def dispatch_lag(self) -> float:
        """t_send − t_sched."""
        return self.t_send - self.t_sched

    @property
    def ttft(self) -> float | None:
        """t_1 − t_sched in an open loop, t_1 − t_send in a closed one."""
        if not self.events:
            return None
        return self.events[0].t - (self.t_sched if self.open_loop else self.t_send)

    @property
    def tpot(self) -> float | None:
        """(t_last − t_1) / (N − k_1); None unless N > k_1."""
        if len(self.events) < 2:
            return None
        rest = sum(e.k for e in self.events[1:])
        return (self.events[-1].t - self.events[0].t) / rest if rest > 0 else None

    @property
    def gaps(self) -> tuple[float, ...]:
        """t_i − t_(i−1): time between content chunks, whatever they hold."""
        return tuple(b.t - a.t for a, b in zip(self.events, self.events[1:], strict=False))

    @property
    def itl(self) -> tuple[tuple[float, float], ...]:
        """(gap_i / k_i, weight k_i) for i ≥ 2."""
        pairs = zip(self.events, self.events[1:], strict=False)
        return tuple(((b.t - a.t) / b.k, b.k) for a, b in pairs if b.k > 0)

    @property
    def stall(self) -> float | None:
        """The longest gap."""
        return max(self.gaps, default=None)

    @property
    def latency(self) -> float:
        """t_close − t_sched."""
        return self.t_close - self.t_sched


def count(chunks: Sequence[Chunk], usage: int | None, *, stopped: bool) -> tuple[tuple[Event, ...], Counting]:
    """k_i of each chunk, and by what they were counted.

    1. Every chunk lists its tokens (logprobs) and their sum agrees with the usage, if given: k_i is their number.
       llama.cpp lists one of the several tokens that make up an emoji, so the list alone is not to be trusted.
    2. The engine's usage N is given. One token a chunk when N equals the number of chunks, or exceeds it by one and the
       answer stopped by itself (the unseen end-of-sequence token is counted by engines). Otherwise chunks hold several
       tokens or parts of one (a guard that holds text back, speculative decoding): N is shared out by characters,
       k_i = N · chars_i / Σ chars, so k_i may be a fraction.
    3. Neither: one token a chunk.
    """
    listed = sum(c.listed or 0 for c in chunks)
    if chunks and all(c.listed for c in chunks) and (usage is None or usage - listed in ((0, 1) if stopped else (0,))):
        return tuple(Event(c.t, float(c.listed or 0)) for c in chunks), "logprobs"
    if usage is None:
        return tuple(Event(c.t, 1.0) for c in chunks), "chunks"
    n, chars = len(chunks), sum(c.chars for c in chunks)
    if usage == n or (stopped and usage == n + 1) or not chars or usage <= 0:
        return tuple(Event(c.t, 1.0) for c in chunks), "usage"
    return tuple(Event(c.t, usage * c.chars / chars) for c in chunks), "usage"


def weighted_quantile(pairs: Sequence[tuple[float, float]], q: float) -> float | None:
    """The smallest value v with Σ weight(values ≤ v) ≥ q · Σ weight: how ITL is pooled. None without weight."""
    total = sum(w for _, w in pairs)
    if total <= 0:
        return None
    reached = 0.0
    for value, weight in sorted(pairs):
        reached += weight
        if reached >= q * total * (1 - 1e-12):
            return value
    return max(value for value, weight in pairs if weight > 0)
