"""Independent users: gaps are exponential (a Poisson process)."""

from __future__ import annotations

from pilothouse.measure.arrivals.gamma import Gamma
from pilothouse.measure.base import Arrivals


def create() -> Arrivals:
    """Poisson arrivals: gamma gaps with a coefficient of variation of 1."""
    return Gamma(cv=1.0)
