"""Cleaning: texts that look the same compare the same, and meaning is never normalised away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.messages import Message, Row
from pilothouse.data.clean import deduplicate, normalise, tidy, tidy_row


def row(id: str, question: str, answer: str) -> Row:
    """One question and answer."""
    return Row(id, (Message("user", question),), answer)


@given(st.text())
def test_tidy_and_normalise_are_idempotent(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert normalise(tidy(text)) == normalise(tidy(tidy(text)))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\r\nb\rc ", "a\nb\nc"),
        ("cafe\u0301", "café"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07 tab\tstays", "bell tab\tstays"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_tidy_removes_what_nobody_sees(raw: str, clean: str) -> None:
    assert tidy(raw) == clean


def test_normalise_ignores_case_width_marks_and_spacing_only() -> None:
    assert normalise("Hello,  WORLD!") == normalise("hello world") == normalise("Ｈｅｌｌｏ “world”")
    assert normalise("a+b") != normalise("a-b")
    assert normalise("1.5 kg") != normalise("15 kg")


def test_duplicates_are_counted_by_kind_and_the_first_stays() -> None:
    rows = [
        row("1", "Where is my bag?", "lost"),
        row("2", "Where is my bag?", "lost"),
        row("3", "where is my BAG", "Lost."),
        row("4", "Where is my bag?", "found"),
        row("5", "Where is my seat?", "lost"),
    ]
    result = deduplicate(rows)
    assert [r.id for r in result.rows] == ["1", "4", "5"]
    assert (result.exact, result.near, result.conflicts) == (1, 1, 1)


@given(st.lists(st.tuples(st.sampled_from("ab AB.,"), st.sampled_from("xyX")), max_size=30))
def test_every_row_is_kept_or_counted_once(pairs: list[tuple[str, str]]) -> None:
    rows = [row(str(i), q, a) for i, (q, a) in enumerate(pairs)]
    result = deduplicate(rows)
    assert len(result.rows) + result.exact + result.near == len(rows)
    again = deduplicate(result.rows)
    assert (again.rows, again.exact, again.near) == (result.rows, 0, 0)


def test_tidy_row_keeps_everything_else() -> None:
    given_ = Row("i", (Message("system", " s "), Message("user", "q\r\n")), " a ", "g", ("t",))
    assert tidy_row(given_) == Row("i", (Message("system", "s"), Message("user", "q")), "a", "g", ("t",))
