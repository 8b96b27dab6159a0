"""Which techniques meet which disguises, and which words does an attempt use? Everything follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import lcm
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

# Invented words: no model says them unless it is brought to.
_SYLLABLES = ("vel", "mor", "tak", "zin", "bru", "kol", "pim", "dax", "fen", "gor", "lus", "nev", "rud", "sop", "wex")


def rng(*parts: object) -> random.Random:
    """A generator of its own for one attempt: adding an attempt changes no other."""
    return random.Random("/".join(str(p) for p in parts))


def pairs(seed: int, n: int, first: Sequence[A], second: Sequence[B]) -> Iterator[tuple[int, A, B]]:
    """n numbered pairs: both lists in turn, in an order of the seed, so few attempts already cover both.

    The second list slips by one whenever both have come round together, so every pair comes before any comes again.
    """
    mixer = rng(seed, "order")
    left, right = mixer.sample(first, len(first)), mixer.sample(second, len(second))
    turn = lcm(len(left), len(right))
    for i in range(n):
        yield i, left[i % len(left)], right[(i + i // turn) % len(right)]


def word(generator: random.Random, syllables: int = 2) -> str:
    """A pronounceable word of no language, in lower case."""
    return "".join(generator.sample(_SYLLABLES, syllables))


def code(generator: random.Random, groups: int = 3) -> str:
    """A random code like `k7wm-3qzx-9fdt`: letters and digits that are not mistaken for each other."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(generator.choices(alphabet, k=4)) for _ in range(groups))
