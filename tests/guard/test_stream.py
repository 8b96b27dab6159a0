"""Streams: for every chunking the same text as the definition gives for the whole, and nothing cut slips out."""

from __future__ import annotations

import codecs
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pilothouse.guard import plants
from pilothouse.guard.base import HOLD_CAP, Pattern
from pilothouse.guard.detectors import banned, pii, secrets
from pilothouse.guard.stream import UNTIL_LIMIT, Program, Scanner, compile_program, redact


def by_fives(text: str) -> int:
    """A check that cuts: the longest beginning that ends in a digit and whose digits add up to a multiple of 5."""
    ends = (n for n in range(len(text), 0, -1) if text[n - 1].isdigit())
    return next((n for n in ends if sum(int(c) for c in text[:n] if c.isdigit()) % 5 == 0), 0)


SMALL = (
    Pattern("email", r"[a-z.]{1,8}@[a-z]{1,4}\.[a-z]{2,3}", left="[a-z.]", right="[a-z]"),
    Pattern("number", r"\d(?:[ -]?\d){3,7}", left="[0-9]", right="[0-9]", check=by_fives),
    Pattern("key", r"sk-[a-z0-9]{3}", tail="[a-z0-9]"),
    Pattern("value", r"pw(?:=| is )([a-z0-9]{2,5})", left="[a-z]"),
    Pattern("block", r"BEG[ab]{0,2}K", until=r"END[a]{0,2}K"),
    Pattern("term", r"(?i:ab\s{1,2}cd)"),
)
PIECES = [
    "a",
    "b.c",
    "@",
    "x.de",
    "1",
    "23",
    " ",
    "-",
    "4 5",
    "sk-",
    "q1",
    "pw",
    "=",
    "is",
    "BEG",
    "K",
    "END",
    "aK",
    "AB",
]
PIECES += ["cd", "\n", "é", "漢字", "🙂", "5", "0"]


def program(*rules: tuple[tuple[Pattern, ...], bool]) -> Program:
    compiled = compile_program([(patterns, block, True) for patterns, block in rules])
    assert compiled is not None
    return compiled


REDACTING = program((SMALL[:3], False), (SMALL[3:], False))
BLOCKING = program((SMALL[:4], False), (SMALL[4:], True))
REAL = program((pii.create(regions=("US", "GB")).patterns, False), (secrets.create().patterns, False))


def chunked(compiled: Program, text: str, sizes: list[int]) -> tuple[str, object, list[object], int]:
    scanner, out, at, most, blocked = Scanner(compiled), "", 0, 0, None
    for size in [*sizes, len(text)]:
        shown, blocked = scanner.feed(text[at : at + size])
        out, at, most = out + shown, at + size, max(most, scanner.held)
        if blocked:
            return out, blocked, list(scanner.hits), most
    shown, blocked = scanner.feed("", final=True)
    return out + shown, blocked, list(scanner.hits), most


def by_definition(patterns: tuple[Pattern, ...], text: str) -> str:
    """The module's definition, written down again with whole-text searches only (no blocking, no budget)."""
    hits = []
    for order, p in enumerate(patterns):
        left, right = (f"(?<!{p.left})" if p.left else ""), (f"(?!{p.right})" if p.right else "")
        regex, inside = re.compile(f"{left}(?:{p.source}){right}"), (0, 0)
        for at in range(len(text)):
            if not (m := regex.match(text, at)):
                continue
            start, end = m.span(regex.groups)
            if p.check:
                end = start + p.check(text[start:end])
            if end <= start or (inside[0] <= start and end <= inside[1]):
                continue
            inside = (start, end)
            stop, whole = end, end == m.end(regex.groups)
            if p.tail and whole:
                run = re.compile(f"{p.tail}*").match(text, end)
                assert run
                stop = run.end()
            if p.until and whole:
                found = re.compile(p.until).search(text, end)
                stop = found.end() if found else len(text)
            hits.append((start, -end, order, stop, p.label))
    out, done = "", 0
    for start, _, _, stop, label in sorted(hits):
        if start >= done:
            out += text[done:start] + label
        done = max(done, stop)
    return out + text[done:]


texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
sizes = st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 4, 7, 15]), max_size=60)


@settings(max_examples=1500, deadline=None)
@given(texts, sizes)
@example("sk-q1zz23 4 5pw=sk-ab1", [1] * 30)
def test_any_chunking_gives_the_text_of_the_definition(text: str, cuts: list[int]) -> None:
    assert redact(REDACTING, text)[0] == by_definition(SMALL, text)
    assert chunked(REDACTING, text, cuts)[0] == by_definition(SMALL, text)


@settings(max_examples=1000, deadline=None)
@given(texts, sizes)
def test_any_chunking_blocks_at_the_same_place_with_the_same_findings(text: str, cuts: list[int]) -> None:
    whole, hits, blocked = redact(BLOCKING, text)
    out, stopped, found, _ = chunked(BLOCKING, text, cuts)
    assert (out, stopped, found) == (whole, blocked, hits)
    if blocked:
        assert hits[-1] == blocked
        # Everything shown comes from before the span: it is what redacting the text before it gives.
        assert out == redact(BLOCKING, text[: blocked.start])[0] or hits[:-1]


real_pieces = st.one_of(
    st.builds(
        lambda seed, n: plants.make(list(plants.MAKERS), n + 1, seed)[n].text, st.integers(0, 30), st.integers(0, 17)
    ),
    st.text("abc de.@:/-+=()[]\"'0123456789\n", max_size=12),
    st.sampled_from(
        ["password: ", "token is ", "Bearer ", "eyJ", "sk-", "-----BEGIN ", "+1 (", "GB82 ", "2001:db8::", "é漢"]
    ),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(real_pieces, max_size=8).map("".join), sizes)
def test_the_real_detectors_say_the_same_of_any_chunking_and_hold_little(text: str, cuts: list[int]) -> None:
    whole, hits, _ = redact(REAL, text)
    out, _, found, held = chunked(REAL, text, cuts)
    assert out == whole
    assert found == hits
    assert held < HOLD_CAP


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(st.integers(1, 3), max_size=120))
def test_bytes_cut_anywhere_give_the_same_text(text: str, cuts: list[int]) -> None:
    data, decoder = text.encode(), codecs.getincrementaldecoder("utf-8")()
    scanner, out, at = Scanner(REDACTING), "", 0
    for size in [*cuts, len(data)]:
        out += scanner.feed(decoder.decode(data[at : at + size]))[0]
        at += size
    assert out + scanner.feed("", final=True)[0] == by_definition(SMALL, text)


@pytest.mark.parametrize("category", sorted(plants.MAKERS))
def test_no_piece_of_a_secret_comes_out_at_any_border(category: str) -> None:
    for plant in plants.make([category], 6, seed=11):
        for chunks in plants.splits(plant):
            scanner = Scanner(REAL)
            out = "".join(scanner.feed(c)[0] for c in chunks) + scanner.feed("", final=True)[0]
            assert not plants.shows(plant, out), (plant, chunks)


def test_text_without_anything_to_find_passes_unchanged_and_is_hardly_held() -> None:
    text = "Thank you for writing. A change costs 45 euros, the desk opens at 5:30. " * 20
    scanner, out, held = Scanner(REAL), "", []
    for at in range(0, len(text), 4):
        out += scanner.feed(text[at : at + 4])[0]
        held.append(scanner.held)
    assert out + scanner.feed("", final=True)[0] == text
    assert sum(held) / len(held) < 5


def test_a_run_without_end_is_cut_while_it_arrives_and_nothing_is_held() -> None:
    scanner = Scanner(REDACTING)
    assert scanner.feed("so sk-abc")[0] + scanner.feed("d")[0] == "so [KEY]"
    for _ in range(1000):
        assert scanner.feed("abcdefgh")[0] == ""
        assert scanner.held == 0
    assert scanner.feed(" end", final=True)[0] == " end"


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_a_block_without_its_end_is_given_up_at_the_limit(size: int) -> None:
    text = "BEGK" + "x" * (UNTIL_LIMIT + 10) + " rest"
    out, _, _, _ = chunked(REDACTING, text, [size] * (len(text) // size))
    assert out == "[BLOCK]" + "x" * 10 + " rest"


def test_overlapping_hits_are_cut_together() -> None:
    both = program(((banned.create(["blue fox", "fox runs"]).patterns), False))
    assert redact(both, "a blue fox runs off")[0] == "a [BANNED] off"


def test_a_pattern_that_would_hold_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="255 characters, not 300"):
        compile_program([((Pattern("long", "a{300}"),), False, True)])
    with pytest.raises(ValueError, match="at most one group"):
        compile_program([((Pattern("two", "(a)(b)"),), False, True)])


def test_observing_reports_without_changing_the_text() -> None:
    scanner = Scanner(REDACTING, cut=False)
    rng, text, out = random.Random(3), "mail a@b.de and 12344 now", ""
    while text:
        size = rng.randint(1, 4)
        out, text = out + scanner.feed(text[:size])[0], text[size:]
    assert out + scanner.feed("", final=True)[0] == "mail a@b.de and 12344 now"
    assert [(h.start, h.end) for h in scanner.hits] == [(5, 11), (16, 20)]
