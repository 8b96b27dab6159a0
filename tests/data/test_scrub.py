"""Scrubbing: data with check digits or a numbering plan is replaced; look-alikes stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.messages import Message, Row
from pilothouse.data.scrub import scrub, scrub_row, spans


# Test numbers that the card networks, the IBAN registry and Ofcom publish for documentation.
@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("write to ada.lovelace+fly@mail.example.org, please", "write to [EMAIL], please"),
        ("card 4111 1111 1111 1111 12/27", "card [CARD] 12/27"),
        ("5500-0000-0000-0004.", "[CARD]."),
        ("amex 378282246310005", "amex [CARD]"),
        ("pay to DE89 3704 0044 0532 0130 00 today", "pay to [IBAN] today"),
        ("ref AB12 GB82WEST12345698765432, thanks", "ref AB12 [IBAN], thanks"),
        ("gb82 west 1234 5698 7654 32", "[IBAN]"),
        ("call +44 20 7946 0018 after six", "call [PHONE] after six"),
        ("+49 (0)30 901820 or b@c.example.com", "[PHONE] or [EMAIL]"),
    ],
)
def test_personal_data_become_placeholders(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "booking K7Q2ZP on MRD412, member ML48291",
        "card 4111 1111 1111 1112",  # Luhn fails
        "DE89 3704 0044 0532 0130 01",  # check digits fail
        "order 0000000000000000",
        "call 112 or 020 7946",  # no country code
        "me@localhost and 3 @ 5",
        "12 March 2026, 14C, 1-2-3",
    ],
)
def test_look_alikes_stay(text: str) -> None:
    assert scrub(text) == (text, {})


@given(st.text(max_size=200))
def test_spans_are_ordered_apart_and_within_the_text(text: str) -> None:
    found = spans(text)
    edges = [edge for start, end, _ in found for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(text) for start, end, _ in found)


@given(st.text("ab ,", max_size=20), st.text("ab ,", max_size=20))
def test_text_around_stays_and_the_value_is_gone(before: str, after: str) -> None:
    text, counts = scrub(f"{before} x@y.example.com {after}")
    assert text == f"{before} [EMAIL] {after}"
    assert counts == {"email": 1}


def test_a_row_loses_the_same_value_in_question_and_answer() -> None:
    row = Row("1", (Message("user", "I am z@y.example.com"),), '{"email":"z@y.example.com"}')
    clean, counts = scrub_row(row)
    assert (clean.question, clean.answer) == ("I am [EMAIL]", '{"email":"[EMAIL]"}')
    assert counts == {"email": 2}
    plain = Row("1", (Message("user", "hi"),), "a")
    assert scrub_row(plain)[0] is plain
