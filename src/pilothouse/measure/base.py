"""What an arrival process must be, and what is known of each request after a load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pilothouse.core.timing import Timing


class Arrivals(Protocol):
    """When requests start, fixed before the load begins: an open loop never waits for answers."""

    def times(self, rate: float, seconds: float, seed: int) -> tuple[float, ...]:
        """Offsets in [0, seconds), in seconds, in order, `rate` a second on average."""


@dataclass(frozen=True, slots=True)
class Result:
    """One offered request. at: its scheduled start after the load's zero. fault: '' or the kind of its failure."""

    index: int
    at: float
    fault: str
    error: str
    timing: Timing
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def ok(self) -> bool:
        """Answered in full."""
        return not self.fault


@dataclass(frozen=True, slots=True)
class Window:
    """The steady part of a load: offsets from zero, in seconds. What was scheduled inside it is measured."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def holds(self, offset: float) -> bool:
        """Whether an offset lies inside."""
        return self.start <= offset < self.end
