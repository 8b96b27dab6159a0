"""Which training rows give away a held-out row: the same question after normalisation, or most of its 8-grams.

An 8-gram overlap of at least 70 % marks contamination in Chowdhery et al. 2022 (PaLM, section 8). There the overlap is
with the whole training set; here with one training row, since it is rows that are dropped. Questions of fewer than 8
words are compared whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from pilothouse.core.messages import Row
from pilothouse.data.clean import normalise

N = 8
SHARE = 0.7


class Contaminated(msgspec.Struct, frozen=True):
    """A row that gives away a held-out one; containment is the share of the held-out row's 8-grams that it holds."""

    row: str
    held_out: str
    kind: str
    containment: float


def find(train: Sequence[Row], held_out: Sequence[Row]) -> list[Contaminated]:
    """The contaminated training rows (each once, with the held-out row that it matches best), in training order."""
    questions: dict[str, str] = {}
    sizes: dict[str, int] = {}
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in held_out:
        text = _question(row)
        questions.setdefault(text, row.id)
        grams = _grams(text)
        sizes[row.id] = len(grams)
        for gram in grams:
            holders[gram].append(row.id)
    found = []
    for row in train:
        text = _question(row)
        if text in questions:
            found.append(Contaminated(row.id, questions[text], "same question", 1.0))
            continue
        hits = Counter(h for gram in _grams(text) if gram in holders for h in holders[gram])
        if not hits:
            continue
        best = max(hits, key=lambda h: (hits[h] / sizes[h], h))
        containment = hits[best] / sizes[best]
        if containment >= SHARE:
            found.append(Contaminated(row.id, best, f"{N}-grams", containment))
    return found


def _question(row: Row) -> str:
    """All that users say in the row: the system message is shared by design and proves nothing."""
    return normalise(" ".join(m.content for m in row.messages if m.role == "user"))


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + N]) for i in range(len(words) - N + 1)}
