"""Intervals and paired differences: every number that leaves a stage gets its uncertainty here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats as _stats

from pilothouse.core.records import Better, Measure


def share(name: str, hits: int, n: int, *, label: str = "", better: Better = "higher", level: float = 0.95) -> Measure:
    """A proportion with Wilson's score interval (Wilson 1927; scipy's binomtest). n = 0 gives value None."""
    if n == 0:
        return Measure(name, None, "share", n=0, method="nothing to measure", better=better, label=label)
    ci = _stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    low, high = float(ci.low), float(ci.high)
    return Measure(name, hits / n, "share", low, high, n, f"Wilson {level:.0%}", level, better, label)


def mean(
    name: str,
    values: Sequence[float],
    *,
    unit: str = "",
    label: str = "",
    better: Better = "higher",
    level: float = 0.95,
    seed: int = 0,
) -> Measure:
    """A mean with its bootstrap percentile interval (2,000 resamples, seeded): right for bounded, skewed scores too."""
    data = np.asarray(values, dtype=float)
    return _bootstrap(name, data, "mean", unit, label, better, level, seed)


def quantile(
    name: str,
    values: Sequence[float],
    q: float,
    *,
    unit: str = "ms",
    label: str = "",
    better: Better = "lower",
    level: float = 0.95,
) -> Measure:
    """A quantile with the order-statistics interval (binomial, distribution-free; Conover 1999 §3.2).

    The interval is None on a side where n is too small to bound it at this level.
    """
    data = np.sort(np.asarray(values, dtype=float))
    n = int(data.size)
    if n == 0:
        return Measure(name, None, unit, n=0, method="nothing to measure", better=better, label=label)
    tail = (1 - level) / 2
    lo = int(_stats.binom.ppf(tail, n, q)) - 1
    hi = int(_stats.binom.ppf(1 - tail, n, q))
    low = float(data[lo]) if lo >= 0 else None
    high = float(data[hi]) if hi < n else None
    value = float(np.quantile(data, q))
    return Measure(name, value, unit, low, high, n, f"order statistics {level:.0%}", level, better, label)


def paired(
    name: str,
    new: Sequence[float],
    old: Sequence[float],
    *,
    unit: str = "",
    label: str = "",
    better: Better = "higher",
    level: float = 0.95,
    seed: int = 0,
) -> Measure:
    """Mean of new − old over the same items, bootstrap over items (2,000 resamples, seeded): the paired difference."""
    if len(new) != len(old):
        raise ValueError(f"paired needs equal lengths, got {len(new)} and {len(old)}")
    data = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    return _bootstrap(name, data, "paired difference", unit, label, better, level, seed)


def sign_test(new: Sequence[bool], old: Sequence[bool]) -> float:
    """Exact McNemar p-value, two-sided: a binomial test on the discordant pairs (1.0 when there are none)."""
    gains = sum(a and not b for a, b in zip(new, old, strict=True))
    losses = sum(b and not a for a, b in zip(new, old, strict=True))
    return float(_stats.binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0


def _bootstrap(
    name: str,
    data: np.ndarray,
    what: str,
    unit: str,
    label: str,
    better: Better,
    level: float,
    seed: int,
) -> Measure:
    n = int(data.size)
    if n == 0:
        return Measure(name, None, unit, n=0, method="nothing to measure", better=better, label=label)
    value = float(np.mean(data))
    if n == 1:
        return Measure(name, value, unit, n=1, method=f"{what}; one value has no interval", better=better, label=label)
    if np.ptp(data) == 0:
        # Every resample is equal, which would claim certainty. The rule of three bounds what n equal values can hide.
        slack = 3.0 / n if unit == "share" else 0.0
        floor = -1.0 if what == "paired difference" else 0.0
        low = max(floor, value - slack) if slack else value
        high = min(1.0, value + slack) if slack else value
        return Measure(name, value, unit, low, high, n, f"{what}, all equal", level, better, label)
    rng = np.random.default_rng(seed)
    resampled = data[rng.integers(0, n, size=(2000, n))].mean(axis=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    method = f"{what}, bootstrap {level:.0%}"
    return Measure(name, value, unit, float(low), float(high), n, method, level, better, label)
