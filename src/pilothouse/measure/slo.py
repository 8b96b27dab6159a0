"""Was the promise kept? Attainment over OFFERED requests, goodput, and whether the target is shown to be met.

attainment  met / offered; a request that failed, or brought no token, is a miss
goodput     attainment × offered rate
shown       the one-sided 95 % Wilson lower bound of attainment ≥ the target (DESIGN 5)
"""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.core import stats
from pilothouse.core.project.schema import Slo
from pilothouse.core.records import Measure
from pilothouse.measure.base import Result


def met(slo: Slo, result: Result) -> bool:
    """Whether one request kept every bound. A bound is inclusive; TPOT of a one-token answer cannot break its bound."""
    return all(kept for _, _, kept in bounds(slo, result))


def bounds(slo: Slo, result: Result) -> list[tuple[str, float, bool]]:
    """(name, bound in ms, kept) for each bound the SLO sets, and 'answered' (bound 0) always."""
    t = result.timing
    answered = result.ok and t.ttft is not None
    found = [("answered", 0.0, answered)]
    if slo.ttft_ms is not None:
        found.append(("TTFT", slo.ttft_ms, answered and t.ttft is not None and t.ttft * 1e3 <= slo.ttft_ms))
    if slo.tpot_ms is not None:
        found.append(("TPOT", slo.tpot_ms, answered and (t.tpot is None or t.tpot * 1e3 <= slo.tpot_ms)))
    if slo.latency_ms is not None:
        found.append(("latency", slo.latency_ms, answered and t.latency * 1e3 <= slo.latency_ms))
    return found


def attainment(slo: Slo, offered: Sequence[Result], name: str = "measure.attainment") -> Measure:
    """The share of offered requests that kept every bound, Wilson's interval."""
    return stats.share(name, sum(met(slo, r) for r in offered), len(offered), label="requests within the SLO")


def goodput(share: Measure, rate: float) -> Measure:
    """Attainment × offered rate; the interval is attainment's, times the rate."""
    if share.value is None or share.low is None or share.high is None:
        return Measure("measure.goodput", None, "req/s", n=0, method=share.method, better="higher", label="goodput")
    return Measure(
        "measure.goodput",
        share.value * rate,
        "req/s",
        share.low * rate,
        share.high * rate,
        share.n,
        "attainment (Wilson 95%) × offered rate",
        better="higher",
        label="goodput",
    )


def lower_bound(hits: int, n: int) -> float:
    """The one-sided 95 % Wilson lower bound of a share (the lower end of the two-sided 90 % interval)."""
    return stats.share("lower", hits, n, level=0.90).low or 0.0


def spoken(slo: Slo) -> str:
    """The bounds in words: 'TTFT ≤ 1000 ms, TPOT ≤ 100 ms'."""
    pairs = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("latency", slo.latency_ms))
    return ", ".join(f"{name} ≤ {bound:g} ms" for name, bound in pairs if bound is not None) or "no bound but an answer"
