"""Loads that never happened, with times chosen by hand."""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.core.timing import Event, Timing
from pilothouse.measure.base import Result


def result(
    at: float,
    *,
    ttft: float = 0.1,
    gaps: Sequence[float] = (0.02, 0.02),
    ks: Sequence[float] | None = None,
    tail: float = 0.0,
    lag: float = 0.0,
    fault: str = "",
    index: int = 0,
) -> Result:
    """A request scheduled `at`, its first token `ttft` later, then `gaps`; it closes `tail` after the last."""
    t, events = 1000.0 + at + ttft, []
    for gap, k in zip([0.0, *gaps], ks or [1.0] * (len(gaps) + 1), strict=True):
        t += gap
        events.append(Event(t, k))
    timing = Timing(1000.0 + at, 1000.0 + at + lag, t + tail, tuple(events), True, "usage")
    return Result(index, at, fault, f"{fault} happened" if fault else "", timing, 5, len(events))
