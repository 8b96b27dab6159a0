"""From parsed requests to measures, each with its interval. Times in milliseconds; formulas in `core.timing`.

Quantiles of times are over answered requests (failures show in attainment and errors, and count there). Rates are batch
means: the window is cut into equal slices, and Student's interval of the slices' rates is given, which holds up where
neighbouring requests are not independent (Law, Simulation Modeling and Analysis, §9.5.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats as _stats

from pilothouse.core import stats
from pilothouse.core.project.schema import Slo
from pilothouse.core.records import Measure
from pilothouse.core.timing import weighted_quantile
from pilothouse.measure import slo as _slo
from pilothouse.measure.base import Result, Window

_RESAMPLES = 1000
_MOST_DRAWS = 40_000_000


def measures(every: Sequence[Result], window: Window, slo: Slo) -> tuple[Measure, ...]:
    """All measures of the steady window. Rates count what warm-up requests bring inside it too."""
    offered = [r for r in every if window.holds(r.at)]
    answered = [r for r in offered if r.ok]
    ttft = ms(r.timing.ttft for r in answered)
    tpot = ms(r.timing.tpot for r in answered)
    latency = ms(r.timing.latency for r in answered)
    itl = [[(gap * 1e3, k) for gap, k in r.timing.itl] for r in answered]
    stall = ms(r.timing.stall for r in answered)
    lag = ms(None if r.timing.t_send != r.timing.t_send else r.timing.dispatch_lag for r in offered)
    share = _slo.attainment(slo, offered)
    rate = len(offered) / window.seconds
    return (
        *(
            stats.quantile(f"measure.ttft_p{p}", ttft, p / 100, label=f"time to first token, p{p}")
            for p in (50, 90, 99)
        ),
        *(stats.quantile(f"measure.tpot_p{p}", tpot, p / 100, label=f"time per output token, p{p}") for p in (50, 90)),
        *(pooled(f"measure.itl_p{p}", itl, p / 100, label=f"inter-token latency, p{p}") for p in (50, 99)),
        *(stats.quantile(f"measure.latency_p{p}", latency, p / 100, label=f"latency, p{p}") for p in (50, 90)),
        stats.quantile("measure.stall_p90", stall, 0.9, label="longest gap of a request, p90"),
        batch_means("measure.throughput", _ends(every), window, unit="req/s", label="answers a second"),
        batch_means("measure.tokens_per_s", _tokens(every), window, unit="tok/s", label="tokens a second"),
        share,
        _slo.goodput(share, rate),
        Measure(
            "measure.offered",
            float(len(offered)),
            "count",
            n=len(offered),
            method="counted: scheduled in the steady window",
            label="offered requests",
        ),
        stats.share(
            "measure.errors",
            len(offered) - len(answered),
            len(offered),
            label="offered requests that failed",
            better="lower",
        ),
        stats.quantile("measure.dispatch_lag_p99", lag, 0.99, label="client's start after schedule, p99"),
    )


def ms(values: Iterable[float | None]) -> list[float]:
    """Seconds to milliseconds, undefined values left out."""
    return [v * 1e3 for v in values if v is not None]


def pooled(
    name: str, groups: Sequence[Sequence[tuple[float, float]]], q: float, *, label: str = "", seed: int = 0
) -> Measure:
    """A weighted quantile over all requests' gaps; bootstrap over requests, since gaps of one request go together."""
    groups = [g for g in groups if g]
    pairs = [pair for group in groups for pair in group]
    value = weighted_quantile(pairs, q)
    if value is None:
        return Measure(name, None, "ms", n=0, method="nothing to measure", better="lower", label=label)
    method = f"{len(pairs)} gaps weighted by tokens"
    if len(groups) < 2:
        text = f"{method}; one request has no interval"
        return Measure(name, value, "ms", n=len(groups), method=text, better="lower", label=label)
    owner = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    values, weights = np.asarray([p[0] for p in pairs]), np.asarray([p[1] for p in pairs])
    order = np.argsort(values, kind="stable")
    values, weights, owner = values[order], weights[order], owner[order]
    draws = max(200, min(_RESAMPLES, _MOST_DRAWS // len(pairs)))
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for i in range(draws):
        times = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)))
        reached = np.cumsum(weights * times[owner])
        found[i] = values[min(int(np.searchsorted(reached, q * reached[-1] * (1 - 1e-12))), len(values) - 1)]
    low, high = np.quantile(found, [0.025, 0.975])
    text = f"{method}, bootstrap over requests 95%"
    return Measure(name, value, "ms", float(low), float(high), len(groups), text, better="lower", label=label)


def batch_means(
    name: str, amounts: Sequence[tuple[float, float]], window: Window, *, unit: str, label: str = ""
) -> Measure:
    """Σ amount / window, of (offset, amount) pairs inside it; Student's interval over 10 slices (5 when few)."""
    inside = [(at, amount) for at, amount in amounts if window.holds(at)]
    slices = 10 if len(inside) >= 30 else 5
    sums = np.zeros(slices)
    for at, amount in inside:
        sums[min(slices - 1, int((at - window.start) / window.seconds * slices))] += amount
    rates = sums / (window.seconds / slices)
    value = float(rates.mean())
    half = float(_stats.t.ppf(0.975, slices - 1) * rates.std(ddof=1) / np.sqrt(slices))
    return Measure(
        name,
        value,
        unit,
        max(0.0, value - half),
        value + half,
        len(inside),
        f"batch means, {slices} slices, Student 95%",
        better="higher",
        label=label,
    )


def _ends(every: Sequence[Result]) -> list[tuple[float, float]]:
    return [(_offset(r, r.timing.t_close), 1.0) for r in every if r.ok]


def _tokens(every: Sequence[Result]) -> list[tuple[float, float]]:
    return [(_offset(r, e.t), e.k) for r in every for e in r.timing.events]


def _offset(r: Result, t: float) -> float:
    return t - r.timing.t_sched + r.at
