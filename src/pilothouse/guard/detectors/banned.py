"""Terms that must not appear: a list of words, names or canaries, exactly as given but for case and white space."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pilothouse.guard.base import HOLD_CAP, Pattern
from pilothouse.guard.stream import PatternDetector


def create(terms: Iterable[str] = (), *, whole_words: bool = True, case_sensitive: bool = False) -> PatternDetector:
    """terms: the list, or `file:PATH` in the project file (one a line). It does not see paraphrases or encodings."""
    if isinstance(terms, str):
        raise ValueError(f"'terms' must be a list or 'file:PATH', not {terms!r}")
    wanted = sorted({" ".join(str(t).split()) for t in terms} - {""})
    if not wanted:
        raise ValueError("'terms' is empty")
    return PatternDetector("banned", tuple(_pattern(t, whole_words, case_sensitive) for t in wanted), ("LLM02:2025",))


def _pattern(term: str, whole_words: bool, case_sensitive: bool) -> Pattern:
    source = r"\s{1,2}".join(map(re.escape, term.split(" ")))
    length = len(term) + term.count(" ")
    if length >= HOLD_CAP:
        raise ValueError(f"the term {term[:40]!r}… is too long: {HOLD_CAP - 1} characters at most")
    edge = r"\w" if whole_words else ""
    return Pattern(
        "banned",
        source if case_sensitive else f"(?i:{source})",
        left=edge if re.match(r"\w", term) else "",
        right=edge if re.match(r"\w", term[-1]) else "",
    )
