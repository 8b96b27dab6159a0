"""Splits: groups stay whole, the seed decides, shares are near what was asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message, Row
from pilothouse.data.split import split

SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}


def rows(groups: list[str]) -> list[Row]:
    """One row for each group named."""
    return [Row(str(i), (Message("user", "q"),), "a", g) for i, g in enumerate(groups)]


@given(st.lists(st.integers(0, 12).map(str), min_size=1, max_size=120), st.integers(0, 50))
def test_groups_stay_whole_and_no_row_is_lost(groups: list[str], seed: int) -> None:
    if len(set(groups)) < 3:
        return
    made = split(rows(groups), SHARES, seed=seed)
    where = {name: {r.group for r in mine} for name, mine in made.items()}
    assert not where["train"] & where["dev"]
    assert not (where["train"] | where["dev"]) & where["test"]
    assert sorted((r.id for mine in made.values() for r in mine), key=int) == [str(i) for i in range(len(groups))]
    assert all(made.values())
    assert made == split(rows(groups), SHARES, seed=seed)


def test_rows_without_group_are_cut_near_the_shares_and_in_order() -> None:
    made = split(rows([""] * 1000), SHARES, seed=7)
    assert {name: len(mine) for name, mine in made.items()} == {"train": 700, "dev": 150, "test": 150}
    for mine in made.values():
        assert [int(r.id) for r in mine] == sorted(int(r.id) for r in mine)


def test_another_seed_cuts_otherwise() -> None:
    given_ = rows([""] * 100)
    assert split(given_, SHARES, seed=1) != split(given_, SHARES, seed=2)


def test_one_missing_split_takes_its_share_of_what_is_left() -> None:
    made = split(rows([""] * 170), {"train": 0.7, "test": 0.15}, seed=7)
    assert {name: len(mine) for name, mine in made.items()} == {"train": 140, "test": 30}


def test_too_few_groups_are_an_error() -> None:
    with pytest.raises(UserError, match="2 groups of rows cannot be cut into 3 splits"):
        split(rows(["a", "a", "b"]), SHARES, seed=7)


def test_a_share_of_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data.split: the share of dev must be above 0, got 0"):
        split(rows([""] * 9), {"train": 0.8, "dev": 0.0, "test": 0.2}, seed=7)
