"""Slots: F1 over a row's slot name–value pairs; the figure for an arm is the mean over rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score
from pilothouse.evaluate.task_json import first_object, slot_pairs


@dataclass(frozen=True, slots=True)
class SlotF1:
    """2·hits / (wanted + given) over name–value pairs of `slots`, counted together within the row (micro).

    A pair counts when name and value are equal; values are compared trimmed and case-folded. Wanted none and given
    none is 1, as SQuAD 2.0 scores questions without an answer; an answer without a JSON object is 0. The aggregate
    is the mean over rows, so a row with many slots weighs as much as one with a single slot (CoNLL's conlleval
    pools over all rows instead): that keeps rows the unit of the interval and of the pairing.
    """

    name: str = "slot-f1"
    label: str = "slot F1"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = False
    needs: tuple[str, ...] = ("reference",)
    source: str = "F1 (van Rijsbergen 1979) over slots as in conlleval (Tjong Kim Sang & De Meulder 2003), mean of rows"

    def score(self, row: Row, output: str) -> Score:
        reference = first_object(row.answer)
        if reference is None or not isinstance(reference.get("slots"), dict):
            return Score(None, "the reference has no slots")
        answer = first_object(output)
        if answer is None:
            return Score(0.0, "no JSON object in the answer")
        wanted, given = slot_pairs(reference["slots"]), slot_pairs(answer.get("slots"))
        total = wanted.total() + given.total()
        if total == 0:
            return Score(1.0, "no slots wanted, none given")
        return Score(2 * (wanted & given).total() / total)


def create() -> SlotF1:
    """The metric."""
    return SlotF1()
