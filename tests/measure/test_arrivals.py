"""Arrival schedules: absolute, seeded, of the promised rate and shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Load
from pilothouse.measure.run import arrivals


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert registry.create("arrivals", "constant").times(4, 1.5, 0) == (0, 0.25, 0.5, 0.75, 1.0, 1.25)


def test_poisson_gaps_are_exponential_and_counts_vary_as_they_should() -> None:
    poisson = registry.create("arrivals", "poisson")
    gaps = np.diff(poisson.times(10, 400, 3))
    assert stats.kstest(gaps, "expon", args=(0, 0.1)).pvalue > 0.01
    counts = [len(poisson.times(5, 10, seed)) for seed in range(300)]
    assert np.mean(counts) == pytest.approx(50, abs=2)
    assert np.var(counts) == pytest.approx(50, rel=0.35)


@pytest.mark.parametrize("cv", [0.5, 2.0, 4.0])
def test_gamma_gaps_have_the_wanted_variation(cv: float) -> None:
    gaps = np.diff(registry.create("arrivals", "gamma", cv=cv).times(10, 3000, 5))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    assert gaps.mean() == pytest.approx(0.1, rel=0.1)


@given(st.sampled_from(["constant", "poisson", "gamma"]), st.floats(0.1, 50), st.floats(0.1, 20), st.integers(0, 99))
def test_every_schedule_never_goes_back_stays_inside_the_load_and_is_repeatable(
    name: str, rate: float, seconds: float, seed: int
) -> None:
    member = registry.create("arrivals", name)
    times = member.times(rate, seconds, seed)
    assert times == member.times(rate, seconds, seed)
    assert all(0 <= t < seconds for t in times)
    assert list(times) == sorted(times)


def test_another_seed_gives_another_schedule() -> None:
    poisson = registry.create("arrivals", "poisson")
    assert poisson.times(5, 10, 1) != poisson.times(5, 10, 2)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (Load(arrivals="poison"), "Did you mean 'poisson'"),
        (Load(arrivals="gamma", options={"burst": 3}), "no option 'burst'. It takes: cv"),
        (Load(arrivals="gamma", options={"cv": 0}), "cv is 0"),
        (Load(arrivals="gamma", options={"cv": "high"}), "cv is 'high'"),
        (Load(arrivals="poisson", options={"cv": 2}), "It takes none"),
    ],
)
def test_wrong_settings_are_one_clear_line(load: Load, says: str) -> None:
    with pytest.raises(UserError, match=says):
        arrivals(load)
