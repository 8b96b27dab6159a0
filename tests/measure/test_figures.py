"""Measures of a load, against values worked out from the times put in."""

from __future__ import annotations

import numpy as np
import pytest

from pilothouse.core.project.schema import Load, Slo
from pilothouse.core.records import Measure, to_json
from pilothouse.measure.base import Result, Window
from pilothouse.measure.calibrate import Calibration
from pilothouse.measure.figures import batch_means, measures, pooled
from pilothouse.measure.report import report
from tests.measure.synthetic import result

SLO = Slo(ttft_ms=150, tpot_ms=30)
WINDOW = Window(1.0, 11.0)
NAMES = {
    *("ttft_p50", "ttft_p90", "ttft_p99", "tpot_p50", "tpot_p90", "itl_p50", "itl_p99", "latency_p50", "latency_p90"),
    *("stall_p90", "throughput", "tokens_per_s", "attainment", "goodput", "offered", "errors", "dispatch_lag_p99"),
}


def load() -> list[Result]:
    """Two a second for 11 s: two in the warm-up, 20 in the window, of which two fail and two are slow."""
    slow = {5: {"ttft": 0.4}, 6: {"gaps": (0.02, 0.2)}, 9: {"fault": "http 500"}, 10: {"fault": "timeout"}}
    return [result(i / 2, index=i, lag=0.001, **slow.get(i, {})) for i in range(22)]  # type: ignore[arg-type]


def by_name(found: tuple[Measure, ...]) -> dict[str, Measure]:
    return {m.name.removeprefix("measure."): m for m in found}


def test_every_promised_measure_is_there_with_n_and_method() -> None:
    found = by_name(measures(load(), WINDOW, SLO))
    assert set(found) == NAMES
    assert all(m.n > 0 and m.method for m in found.values())


def test_values_are_those_put_in() -> None:
    found = by_name(measures(load(), WINDOW, SLO))
    assert found["offered"].value == 20
    assert found["errors"].value == pytest.approx(0.1)
    assert found["attainment"].value == pytest.approx(16 / 20)
    assert found["goodput"].value == pytest.approx(16 / 20 * 2)
    assert found["ttft_p50"].value == pytest.approx(100)
    assert found["ttft_p50"].n == 18
    assert found["tpot_p50"].value == pytest.approx(20)
    assert found["itl_p50"].value == pytest.approx(20)
    assert found["itl_p50"].n == 18
    assert found["latency_p50"].value == pytest.approx(140)
    assert found["throughput"].value == pytest.approx(1.8)
    assert found["dispatch_lag_p99"].value == pytest.approx(1)
    assert found["dispatch_lag_p99"].n == 20


def test_warm_up_requests_are_not_measured() -> None:
    every = load()
    every[0] = result(0.0, ttft=30)
    assert (
        by_name(measures(every, WINDOW, SLO))["ttft_p99"].value
        == by_name(measures(load(), WINDOW, SLO))["ttft_p99"].value
    )


def test_tokens_count_where_they_came_not_where_the_request_began() -> None:
    late = result(10.9, ttft=0.05, gaps=(0.02, 1.0))  # two of three tokens before the window's end at 11
    early = result(0.5, ttft=0.45, gaps=(0.1, 0.1))  # two of three after its start at 1
    found = by_name(measures([early, late], WINDOW, SLO))
    assert found["tokens_per_s"].value == pytest.approx(4 / 10)


def test_all_failed_gives_zero_attainment_and_no_times() -> None:
    found = by_name(measures([result(i, fault="connect") for i in range(2, 9)], WINDOW, SLO))
    assert found["attainment"].value == 0
    assert found["errors"].value == 1
    assert found["ttft_p50"].value is None
    assert found["itl_p50"].value is None


def test_the_pooled_quantile_weights_by_tokens() -> None:
    groups = [[(10.0, 9.0), (50.0, 1.0)], [(10.0, 9.0), (50.0, 1.0)]]
    assert pooled("x", groups, 0.5).value == 10
    assert pooled("x", groups, 0.95).value == 50


def test_the_pooled_interval_covers_the_truth_where_gaps_cluster() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        pace = rng.normal(20, 3, size=30)  # each request has a pace of its own
        groups = [[(float(v), 1.0) for v in rng.normal(p, 0.1, size=20)] for p in pace]
        m = pooled("x", groups, 0.5, seed=seed)
        assert m.low is not None
        assert m.high is not None
        hits += m.low <= 20 <= m.high
    assert hits >= 50


def test_batch_means_by_hand() -> None:
    # 5 slices of 2 s with 2, 4, 2, 4, 3 ends: rates 1, 2, 1, 2, 1.5; mean 1.5, s = 0.5, t(4) = 2.776
    ends = [(1 + 2 * s + 0.1 * i, 1.0) for s, n in enumerate([2, 4, 2, 4, 3]) for i in range(n)]
    m = batch_means("x", ends, WINDOW, unit="req/s")
    assert m.value == pytest.approx(1.5)
    assert m.high == pytest.approx(1.5 + 2.7764451 * 0.5 / 5**0.5)
    assert m.n == 15


def test_the_report_tells_what_failed_what_was_cut_and_whether_the_client_was_fit() -> None:
    fit = Calibration(0.3, 0.05, 0.2, 32, 512)
    found = report(Load(rate=2, seconds=11, warmup_s=1), SLO, load(), WINDOW, fit, [0.1, 0.4], 7)
    assert found.summary.startswith(
        "16 of 20 requests offered at 2 a second kept the SLO (TTFT ≤ 150 ms, TPOT ≤ 30 ms)"
    )
    failures = next(t for t in found.tables if t.title == "Failures by kind")
    assert failures.rows == [["http 500", 1, "http 500 happened"], ["timeout", 1, "timeout happened"]]
    assert found.facts["warm-up cut"] == "requests scheduled in the first 1 s (2)"
    assert found.facts["tokens counted by"] == "the engine's usage (20)"
    assert found.facts["client fit for the SLO"].startswith("yes")
    assert found.facts["target"].startswith("not shown")
    assert [p.kind for p in found.plots] == ["ecdf", "ecdf", "line"]
    assert len(found.plots[0].series[0].y) == 18
    assert found.plots[2].series[0].y.count(None) == 2
    to_json(found)


def test_a_client_too_slow_for_the_bounds_is_flagged() -> None:
    slow = Calibration(2.0, 0.1, 0.5, 32, 512)
    found = report(Load(rate=2, seconds=11, warmup_s=1), SLO, load(), WINDOW, slow, [], 7)
    assert found.facts["client fit for the SLO"] == (
        "no: TTFT bias 2.00 ms is above 1 % of the bound 150 ms; "
        "read lag p99 0.50 ms is above 1 % of the TPOT bound 30 ms"
    )
