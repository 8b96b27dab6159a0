"""Evenly spaced requests: request i starts at i / rate."""

from __future__ import annotations

from pilothouse.measure.base import Arrivals


class Constant:
    """The smoothest load of its rate; no chance in it, so the seed has no effect."""

    def times(self, rate: float, seconds: float, seed: int) -> tuple[float, ...]:
        """0, 1/rate, 2/rate, … below `seconds`."""
        n = int(rate * seconds) + 1
        return tuple(t for i in range(n) if (t := i / rate) < seconds)


def create() -> Arrivals:
    """Evenly spaced arrivals."""
    return Constant()
