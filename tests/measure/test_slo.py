"""Attainment counts what was offered; goodput and the lower bound follow from it."""

from __future__ import annotations

import math

import pytest

from pilothouse.core.project.schema import Slo
from pilothouse.measure import slo
from pilothouse.measure.base import Result
from pilothouse.measure.profiles import PROFILES
from tests.measure.synthetic import result

BOUNDS = Slo(ttft_ms=150, tpot_ms=30, latency_ms=300)


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (result(0), True),
        (result(0, ttft=0.2), False),
        (result(0, gaps=(0.02, 0.06)), False),
        (result(0, tail=0.2), False),
        (result(0, fault="timeout"), False),
        (result(0, gaps=()), True),  # one token: TPOT cannot be broken
        (result(0, ttft=0.09, lag=0.08), True),  # the lag is inside TTFT, not on top
    ],
)
def test_a_request_keeps_its_promise_or_not(one: Result, kept: bool) -> None:
    assert slo.met(BOUNDS, one) is kept


def test_an_answer_without_a_token_is_a_miss_even_without_bounds() -> None:
    empty = result(0)
    none = Result(0, 0, "", "", type(empty.timing)(0, 0, 1, (), True), 5, 0)
    assert not slo.met(Slo(), none)
    assert slo.met(Slo(), empty)


def test_failures_stay_in_the_denominator() -> None:
    offered = [result(i) for i in range(6)] + [result(i, fault="reset") for i in range(4)]
    share = slo.attainment(BOUNDS, offered)
    assert share.value == pytest.approx(0.6)
    assert share.n == 10
    good = slo.goodput(share, 2.5)
    assert good.value == pytest.approx(1.5)
    assert share.low is not None
    assert good.low == pytest.approx(share.low * 2.5)


def test_nothing_offered_gives_no_number() -> None:
    assert slo.goodput(slo.attainment(BOUNDS, []), 3).value is None


def test_the_lower_bound_is_wilsons_one_sided() -> None:
    z, n, p = 1.6448536269514722, 40, 38 / 40  # Wilson 1927, by hand
    by_hand = (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    assert slo.lower_bound(38, 40) == pytest.approx(by_hand, abs=1e-6)


def test_published_profiles_have_names_bounds_and_sources() -> None:
    assert len({p.name for p in PROFILES}) == len(PROFILES)
    assert all(p.ttft_ms and p.tpot_ms and p.source for p in PROFILES)
