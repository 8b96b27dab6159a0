"""Token F1: overlap of the answer's and the reference's words after SQuAD's normalisation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score
from pilothouse.evaluate.squad_text import normalise


@dataclass(frozen=True, slots=True)
class TokenF1:
    """Harmonic mean of word precision and recall, repeats counted; both empty is 1, one empty is 0 (SQuAD 2.0)."""

    name: str = "token-f1"
    label: str = "token F1"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = False
    needs: tuple[str, ...] = ("reference",)
    source: str = "SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822), evaluation script"

    def score(self, row: Row, output: str) -> Score:
        wanted, given = Counter(normalise(row.answer).split()), Counter(normalise(output).split())
        total = wanted.total() + given.total()
        return Score(2 * (wanted & given).total() / total if total else 1.0)


def create() -> TokenF1:
    """The metric."""
    return TokenF1()
