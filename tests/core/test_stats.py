"""Intervals agree with published tables and cover at their level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core import stats


def test_wilson_interval_matches_newcombe_1998_table_one() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, Table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        m = stats.share("x", hits, n)
        assert m.low == pytest.approx(low, abs=5e-5)
        assert m.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_its_point(pair: tuple[int, int]) -> None:
    hits, n = pair
    m = stats.share("x", hits, n)
    assert m.low is not None and m.high is not None and m.value is not None
    assert 0 <= m.low <= m.value + 1e-12 and m.value - 1e-12 <= m.high <= 1


def test_nothing_to_measure_has_no_value_and_says_so() -> None:
    for m in (stats.share("x", 0, 0), stats.mean("x", []), stats.quantile("x", [], 0.9), stats.paired("x", [], [])):
        assert m.value is None and m.n == 0 and "nothing" in m.method


def test_bootstrap_of_the_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        m = stats.mean("x", rng.beta(2, 3, size=60).tolist(), seed=seed)
        assert m.low is not None and m.high is not None
        hits += m.low <= 0.4 <= m.high
    assert 0.88 <= hits / 200 <= 0.99


def test_paired_difference_is_tighter_than_its_parts_when_items_agree() -> None:
    rng = np.random.default_rng(5)
    old = rng.uniform(0, 1, 100)
    new = old + 0.05 + rng.normal(0, 0.01, 100)
    m = stats.paired("x", new.tolist(), old.tolist())
    assert m.low is not None and m.high is not None
    assert m.low > 0.04 and m.high < 0.06


def test_equal_shares_do_not_claim_certainty() -> None:
    m = stats.paired("x", [1.0] * 30, [1.0] * 30, unit="share")
    assert m.low == pytest.approx(-0.1) and m.high == pytest.approx(0.1)


def test_quantile_interval_is_open_where_the_sample_is_too_small() -> None:
    m = stats.quantile("x", list(range(20)), 0.99)
    assert m.high is None and m.low is not None


def test_sign_test_matches_the_exact_binomial_by_hand() -> None:
    new, old = [True] * 8 + [False] * 2 + [True] * 5, [False] * 8 + [True] * 2 + [True] * 5
    # 8 gains of 10 discordant pairs: 2·P(X ≥ 8 | 10, ½) = 2·56/1024
    assert stats.sign_test(new, old) == pytest.approx(112 / 1024)
    assert stats.sign_test([True], [True]) == 1.0


def test_paired_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        stats.paired("x", [1.0], [1.0, 2.0])
