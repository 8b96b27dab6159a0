"""The load report: measures, failures, how the figures were taken, and whether the client was fit to take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from pilothouse.core.project.schema import Load, Slo
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.measure import slo as _slo
from pilothouse.measure.base import Result, Window
from pilothouse.measure.calibrate import Calibration
from pilothouse.measure.figures import measures, ms
from pilothouse.measure.profiles import PROFILES

_COUNTED = {
    "usage": "the engine's usage",
    "logprobs": "tokens listed in each chunk",
    "chunks": "one token a content chunk (the engine gave no usage)",
}


def report(
    settings: Load,
    slo: Slo,
    every: Sequence[Result],
    window: Window,
    calibration: Calibration,
    loop_lag_ms: Sequence[float],
    distinct: int,
) -> Report:
    """Everything a reader needs to trust or doubt the figures."""
    found = measures(every, window, slo)
    offered = [r for r in every if window.holds(r.at)]
    return Report(
        stage="measure",
        title="Speed under load",
        summary=_summary(slo, offered, found, settings),
        measures=found,
        tables=(_bounds(slo, offered), _errors(every), _published(offered)),
        plots=_plots(every, offered, window, slo),
        facts=_facts(settings, slo, every, offered, window, calibration, loop_lag_ms, distinct),
        details={"calibration": asdict(calibration), "window": asdict(window)},
    )


def _summary(slo: Slo, offered: Sequence[Result], found: Sequence[Measure], settings: Load) -> str:
    met = sum(_slo.met(slo, r) for r in offered)
    first = next((m.value for m in found if m.name == "measure.ttft_p50"), None)
    speed = f"; half of the first tokens came within {first:.0f} ms" if first is not None else "; nothing was answered"
    return (
        f"{met} of {len(offered)} requests offered at {settings.rate:g} a second kept the SLO "
        f"({_slo.spoken(slo)}){speed}."
    )


def _bounds(slo: Slo, offered: Sequence[Result]) -> Table:
    rows: list[list[object]] = []
    kept: dict[tuple[str, float], int] = {}
    for r in offered:
        for name, bound, fine in _slo.bounds(slo, r):
            kept[name, bound] = kept.get((name, bound), 0) + fine
    for (name, bound), hits in kept.items():
        rows.append([name, bound or None, hits, len(offered), hits / len(offered)])
    return Table("Bounds", ["bound", "ms", "kept", "offered", "share"], rows, "A failed request keeps no bound.")


def _errors(every: Sequence[Result]) -> Table:
    kinds = Counter(r.fault for r in every if not r.ok)
    rows = [[kind, n, next(r.error for r in every if r.fault == kind)] for kind, n in kinds.most_common()]
    return Table("Failures by kind", ["kind", "requests", "an example"], rows, "Warm-up included." if rows else "None.")


def _published(offered: Sequence[Result]) -> Table:
    rows = []
    for profile in PROFILES:
        hits = sum(_slo.met(profile, r) for r in offered)
        shown = "yes" if _slo.lower_bound(hits, len(offered)) >= profile.attainment else "no"
        rows.append([profile.name, profile.ttft_ms, profile.tpot_ms, profile.attainment, hits / len(offered), shown])
    columns = ["profile", "TTFT ms", "TPOT ms", "target", "attained", "shown at 95 %"]
    sources = "; ".join(dict.fromkeys(p.source for p in PROFILES))
    return Table("By published bounds", columns, rows, f"Set for other models and machines: a yardstick. {sources}.")


def _plots(every: Sequence[Result], offered: Sequence[Result], window: Window, slo: Slo) -> tuple[Plot, ...]:
    answered = [r for r in offered if r.ok]
    n = f"n = {len(answered)} answered of {len(offered)} offered"
    found = []
    for title, values, bound in (
        ("Time to first token", ms(r.timing.ttft for r in answered), slo.ttft_ms),
        ("Time per output token", ms(r.timing.tpot for r in answered), slo.tpot_ms),
    ):
        note = n if bound is None else f"{n}; bound {bound:g} ms"
        samples: list[float | None] = [round(v, 3) for v in values]
        found.append(Plot("ecdf", title, "ms", "share of answers", [Series("answers", [], samples)], note))
    x = [round(r.at, 3) for r in every]
    line = Plot(
        "line",
        "Latency over the load",
        "scheduled start, s",
        "ms",
        [
            Series("latency", x, [round(r.timing.latency * 1e3, 3) if r.ok else None for r in every]),
            Series("time to first token", x, [_first(r) for r in every]),
        ],
        f"The first {window.start:g} s are warm-up and not measured. Failed requests leave a gap.",
    )
    return (*found, line)


def _first(r: Result) -> float | None:
    return round(r.timing.ttft * 1e3, 3) if r.ok and r.timing.ttft is not None else None


def _facts(
    settings: Load,
    slo: Slo,
    every: Sequence[Result],
    offered: Sequence[Result],
    window: Window,
    calibration: Calibration,
    loop_lag_ms: Sequence[float],
    distinct: int,
) -> dict[str, str]:
    met = sum(_slo.met(slo, r) for r in offered)
    low = _slo.lower_bound(met, len(offered))
    answered = [r for r in every if r.ok]
    counted = Counter(r.timing.counting for r in answered if r.timing.events)
    doubts = calibration.too_slow_for(slo)
    lag = float(np.quantile(loop_lag_ms, 0.99)) if len(loop_lag_ms) else 0.0
    options = "".join(f", {k} {v}" for k, v in settings.options.items())
    return {
        "SLO": f"{slo.name}: {_slo.spoken(slo)}, by {slo.attainment:.0%} of offered requests ({slo.source})",
        "target": f"{'shown' if low >= slo.attainment else 'not shown'}: one-sided 95 % lower bound {low:.1%}, "
        f"target {slo.attainment:.0%}",
        "arrivals": f"{settings.arrivals}{options}, open loop, {settings.rate:g} req/s for {settings.seconds:g} s, "
        f"seed {settings.seed}",
        "requests": f"{len(every)} offered, {len(answered)} answered; {distinct} distinct prompts, "
        f"at most {settings.max_tokens} tokens each",
        "warm-up cut": f"requests scheduled in the first {window.start:g} s ({len(every) - len(offered)})",
        "offered rate": f"{len(offered) / window.seconds:.3g} req/s in the steady window of {window.seconds:g} s",
        "tokens counted by": ", ".join(f"{_COUNTED[how]} ({n})" for how, n in counted.most_common()) or "nothing",
        "clock": "CLOCK_MONOTONIC in the read callback of a client process; TTFT and latency from the schedule",
        "client": f"adds {calibration.ttft_bias_ms:.2f} ms to TTFT (median), reads "
        f"{calibration.read_lag_p99_ms:.2f} ms late at p99 ({calibration.streams} streams on a server of known speed); "
        f"during this load its timer, which counts whole milliseconds, was {lag:.2f} ms late at p99",
        "client fit for the SLO": "no: " + "; ".join(doubts) if doubts else "yes: within 1 % of its bounds",
        "intervals": "quantiles and attainment take requests as independent; in a queue they are not, so read them as "
        "the least uncertainty",
    }
