"""Contamination: planted copies are found, in whole or in large part; chance overlap is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.messages import Message, Row
from pilothouse.data.contamination import N, find

WORDS = [f"w{i}" for i in range(400)]


def row(id: str, text: str, system: str = "") -> Row:
    """One question."""
    messages = (Message("system", system),) if system else ()
    return Row(id, (*messages, Message("user", text)), "a")


def test_the_same_question_in_other_clothes_is_found_however_short() -> None:
    found = find([row("t", "where is my BAG"), row("u", "where is my seat")], [row("h", "Where is my bag?")])
    assert [(c.row, c.held_out, c.kind) for c in found] == [("t", "h", "same question")]


def test_a_copy_with_a_preamble_is_found_by_its_8_grams() -> None:
    question = " ".join(WORDS[:20])
    found = find([row("t", f"please tell me {question} thank you")], [row("h", question), row("i", "another thing")])
    assert [(c.row, c.held_out, c.kind, c.containment) for c in found] == [("t", "h", "8-grams", 1.0)]


@given(st.integers(0, 20))
def test_containment_is_the_share_of_the_held_out_8_grams(kept: int) -> None:
    # 20 words have 13 8-grams; the first `kept` words hold max(0, kept - 7) of them.
    train = " ".join(WORDS[:kept] + WORDS[100:110])
    found = find([row("t", train)], [row("h", " ".join(WORDS[:20]))])
    share = max(0, kept - N + 1) / 13
    if kept == 20:
        assert [c.containment for c in found] == [1.0]
    else:
        assert [c.containment for c in found] == ([share] if share >= 0.7 else [])


def test_a_shared_system_message_proves_nothing() -> None:
    system = " ".join(WORDS[:40])
    assert find([row("t", "first", system)], [row("h", "second", system)]) == []


@given(st.sets(st.integers(0, 30)), st.integers(1, 30))
def test_every_planted_copy_is_found_and_nothing_else(planted: set[int], size: int) -> None:
    held_out = [row(f"h{i}", " ".join(f"x{i}_{j}" for j in range(size))) for i in range(31)]
    train = [row(f"t{i}", " ".join(f"y{i}_{j}" for j in range(size))) for i in range(10)]
    train += [row(f"c{i}", held_out[i].question.upper() + "!") for i in sorted(planted)]
    assert {c.row for c in find(train, held_out)} == {f"c{i}" for i in planted}
