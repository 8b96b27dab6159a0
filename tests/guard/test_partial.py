"""Beginnings of matches, against every word of small languages written out."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.guard import partial
from pilothouse.guard.partial import Atom, Either, Folded, Node, Repeat, Sequence

ATOMS = {"a": "a", "b": "b", "[ab]": "ab", "[^a]": "bB", ".": "abB", "\\w": "abB"}
TEXTS = ["".join(t) for n in range(1, 5) for t in product("abB", repeat=n)]


def trees() -> st.SearchStrategy[Node]:
    def wider(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        counts = st.tuples(st.integers(0, 2), st.integers(0, 1)).map(lambda c: (c[0], max(1, c[0] + c[1])))
        return st.one_of(
            several.map(Sequence),
            several.map(Either),
            st.builds(lambda n, c: Repeat(n, *c), inner, counts),
            inner.map(Folded),
        )

    return st.recursive(st.sampled_from(sorted(ATOMS)).map(Atom), wider, max_leaves=5)


def words(node: Node, fold: bool = False) -> set[str]:
    """Every word, written out from the definition; cut at 5 characters, which no text here exceeds."""
    match node:
        case Atom(source):
            letters = set(ATOMS[source])
            return letters | {c.swapcase() for c in letters} & set("abBA") if fold else letters
        case Folded(inner):
            return words(inner, True)
        case Either(nodes):
            return set().union(*(words(n, fold) for n in nodes))
        case Sequence(nodes):
            out = {""}
            for n in nodes:
                out = {(a + b)[:5] for a in out for b in words(n, fold)}
            return out
        case Repeat(inner, low, high):
            some, out, found = words(inner, fold), {""}, set()
            for count in range(high + 1):
                if count >= low:
                    found |= out
                out = {(a + b)[:5] for a in out for b in some}
            return found


@settings(max_examples=300, deadline=None)
@given(trees())
def test_begins_matches_exactly_the_beginnings_of_words(tree: Node) -> None:
    every = words(tree)
    beginnings = {w[:n] for w in every for n in range(1, len(w) + 1)}
    begun = re.compile(f"(?:{partial.begins(tree)})")
    for text in TEXTS:
        # Case folding may also match "A" for "a": only texts over a, b, B are asked.
        assert bool(begun.match(text)) == (text in beginnings), (text, partial.whole(tree))


@settings(max_examples=200, deadline=None)
@given(trees())
def test_a_pattern_survives_being_written_and_read_again(tree: Node) -> None:
    source = partial.whole(tree)
    again = partial.parse(source)
    assert partial.longest(again) == partial.longest(tree)
    for text in TEXTS:
        assert bool(re.fullmatch(source, text)) == bool(re.fullmatch(partial.whole(again), text))


@pytest.mark.parametrize(
    "source", ["a*", "a+", "a{2,}", "a+?", "a??", "^a", "a$", r"\ba", "(?=a)", "(?P<x>a)", "[a", "(a", "a)"]
)
def test_what_cannot_be_bounded_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        partial.parse(source)


def test_the_longest_word_is_known() -> None:
    assert partial.longest(partial.parse(r"(?:ab|[c-e]{2,3})x?(?i:yz){4}")) == 3 + 1 + 8
