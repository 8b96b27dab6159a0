"""Bursty users: gaps are gamma-distributed with coefficient of variation `cv` (1 is Poisson, above is burstier).

Azure's LLM traces of 2023: cv 1.09 for conversations, 13.2 for code.
"""

from __future__ import annotations

import math

import numpy as np

from pilothouse.core.errors import UserError
from pilothouse.measure.base import Arrivals


class Gamma:
    """Gaps with mean 1/rate and standard deviation cv/rate: shape 1/cv², scale cv²/rate."""

    def __init__(self, cv: float) -> None:
        self.cv = cv

    def times(self, rate: float, seconds: float, seed: int) -> tuple[float, ...]:
        """Running sums of the gaps, below `seconds`; the same seed gives the same times."""
        rng = np.random.default_rng(seed)
        shape = 1 / self.cv**2
        found: list[float] = []
        t = 0.0
        while True:
            for gap in rng.gamma(shape, 1 / (rate * shape), size=256):
                t += float(gap)
                if t >= seconds:
                    return tuple(found)
                found.append(t)


def create(cv: float = 2.0) -> Arrivals:
    """Gamma arrivals with that coefficient of variation."""
    if isinstance(cv, bool) or not isinstance(cv, (int, float)) or not math.isfinite(cv) or not 0.01 <= cv <= 100:
        raise UserError(f"cv is {cv!r}", where="load.options.cv", fix="Give a number from 0.01 to 100.")
    return Gamma(float(cv))
