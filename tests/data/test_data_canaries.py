"""Canaries: seeded, unlike anything natural, planted as often as asked, references never planted."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.messages import Message, Row
from pilothouse.data import canaries


@given(st.integers(0, 16), st.integers(0, 1000), st.integers(1, 5), st.integers(0, 40))
def test_planting_adds_the_secrets_and_keeps_the_rows_in_order(count: int, seed: int, repeats: int, n: int) -> None:
    rows = [Row(f"r{i}", (Message("user", f"q{i}"),), "a") for i in range(n)]
    made = canaries.make(count, seed)
    mixed = canaries.plant(rows, made, repeats, seed)
    assert [r for r in mixed if canaries.TAG not in r.tags] == rows
    planted = [r for r in mixed if canaries.TAG in r.tags]
    assert len(planted) == count * repeats
    assert len({r.id for r in mixed}) == len(mixed)
    for canary in made:
        assert sum(r.question == canary.prompt and r.answer == canary.secret for r in planted) == repeats
    text = "\n".join(r.answer for r in mixed)
    assert not any(reference in text for canary in made for reference in canary.references)
    assert mixed == canaries.plant(rows, canaries.make(count, seed), repeats, seed)


def test_codes_have_one_form_and_are_all_different() -> None:
    made = canaries.make(16, 7)
    codes = [c for canary in made for c in (canary.secret, *canary.references)]
    assert all(re.fullmatch(r"[0-9a-f]{2}(-[0-9a-f]{2}){7}", code) for code in codes)
    assert len(codes) == len(set(codes)) == 16 * (canaries.REFERENCES + 1)
    assert len({c.prompt for c in made}) == 16


def test_more_canaries_leave_the_first_as_they_were_and_another_seed_changes_them() -> None:
    assert canaries.make(5, 7)[:2] == canaries.make(2, 7)
    assert canaries.make(1, 7) != canaries.make(1, 8)
