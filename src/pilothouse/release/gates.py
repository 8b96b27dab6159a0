"""Does a measure satisfy its rule? Decided on the interval's bound; a missing measure is never a pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Gate
from pilothouse.core.records import GateResult, Measure, Report, Verdict

ReleaseVerdict = Literal["ship", "hold", "inconclusive"]
EXIT_CODE: Mapping[ReleaseVerdict, int] = {"ship": 0, "hold": 1, "inconclusive": 3}
_MOST_SAMPLES = 1_000_000


def judge(gate: Gate, reports: Iterable[Report]) -> GateResult:
    """One gate over all reports.

    On the interval: pass when the whole interval satisfies the rule, fail when all of it violates it, else
    inconclusive. On the value: the point estimate decides (for counts and deterministic figures).
    """
    measure = next((m for r in reports if (m := r.measure(gate.measure)) is not None), None)
    rule = f"{gate.measure} {_sign(gate)} {_bound(gate):g}" + (" (value)" if gate.on == "value" else "")
    if measure is None or measure.value is None:
        why = "was not measured" if measure is None else f"has no value ({measure.method})"
        return GateResult(gate.name, rule, "inconclusive", f"{gate.measure} {why}", (measure,) if measure else ())
    low, high = measure.value, measure.value
    if gate.on == "interval":
        if measure.low is None and measure.high is None:
            reason = "has no interval; gate it on 'value', or measure more"
            return GateResult(gate.name, rule, "inconclusive", f"{gate.measure} {reason}", (measure,))
        low = measure.low if measure.low is not None else -math.inf
        high = measure.high if measure.high is not None else math.inf
    verdict = _decide(gate, low, high)
    needed = _samples(gate, measure) if verdict == "inconclusive" else None
    return GateResult(gate.name, rule, verdict, _reason(gate, measure, verdict, needed), (measure,), needed)


def verdict(results: Sequence[GateResult]) -> ReleaseVerdict:
    """hold when any gate failed, inconclusive when any is undecided or there is no gate at all, else ship."""
    if any(r.verdict == "fail" for r in results):
        return "hold"
    if not results or any(r.verdict == "inconclusive" for r in results):
        return "inconclusive"
    return "ship"


def check_names(gates: Sequence[Gate], *, where: str) -> None:
    """Two gates of one name would hide one another: a UserError."""
    names = [g.name for g in gates]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UserError(f"two gates are called {twice!r}", where=where, fix="Give each gate its own name.")


def _sign(gate: Gate) -> str:
    return ">" if gate.above is not None else "<"


def _bound(gate: Gate) -> float:
    bound = gate.above if gate.above is not None else gate.below
    assert bound is not None  # the schema takes exactly one
    return bound


def _decide(gate: Gate, low: float, high: float) -> Verdict:
    bound = _bound(gate)
    if gate.above is not None:
        return "pass" if low > bound else "fail" if high <= bound else "inconclusive"
    return "pass" if high < bound else "fail" if low >= bound else "inconclusive"


def _samples(gate: Gate, m: Measure) -> int | None:
    """About how many samples would settle it: half-widths shrink with √n, so n·(half-width/distance)², rounded up."""
    if m.value is None or m.low is None or m.high is None or m.n == 0:
        return None
    side = m.value - m.low if _bound(gate) < m.value else m.high - m.value
    distance = abs(m.value - _bound(gate))
    if distance == 0 or side <= 0:
        return None
    needed = math.ceil(m.n * min(side / distance, 1e6) ** 2)
    return max(min(needed, _MOST_SAMPLES), m.n + 1)


def _reason(gate: Gate, m: Measure, verdict: Verdict, needed: int | None) -> str:
    shown = f"{m.value:.4g}"
    if gate.on == "interval":
        low = "-∞" if m.low is None else f"{m.low:.4g}"
        high = "∞" if m.high is None else f"{m.high:.4g}"
        shown = f"{shown} [{low}, {high}] (n={m.n})"
    if verdict == "pass":
        return f"{shown} is {'above' if gate.above is not None else 'below'} {_bound(gate):g}"
    if verdict == "fail":
        return f"{shown} is not {'above' if gate.above is not None else 'below'} {_bound(gate):g}"
    more = f"; about {needed:,} samples would settle it" if needed else ""
    return f"{shown} straddles {_bound(gate):g}{more}"
