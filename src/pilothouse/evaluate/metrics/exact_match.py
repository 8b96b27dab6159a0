"""Exact match: the answer equals the reference after SQuAD's normalisation (case, punctuation, articles, spaces)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score
from pilothouse.evaluate.squad_text import normalise


@dataclass(frozen=True, slots=True)
class ExactMatch:
    """1 when the normalised texts are equal, else 0. Not for JSON answers: punctuation does not count here."""

    name: str = "exact-match"
    label: str = "exact match"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = True
    needs: tuple[str, ...] = ("reference",)
    source: str = "SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250), evaluation script v1.1"

    def score(self, row: Row, output: str) -> Score:
        return Score(float(normalise(output) == normalise(row.answer)))


def create() -> ExactMatch:
    """The metric."""
    return ExactMatch()
