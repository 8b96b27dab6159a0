"""Intent: `intent` in the answer's first JSON object equals the reference's, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score
from pilothouse.evaluate.task_json import first_object


@dataclass(frozen=True, slots=True)
class IntentMatch:
    """1 when the intents are equal strings, else 0. Text round the first JSON object is ignored: json-valid sees it."""

    name: str = "intent-match"
    label: str = "intent"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = True
    needs: tuple[str, ...] = ("reference",)
    source: str = "intent accuracy as on ATIS and SNIPS (Goo et al. 2018, NAACL N18-2118)"

    def score(self, row: Row, output: str) -> Score:
        wanted = (first_object(row.answer) or {}).get("intent")
        if not isinstance(wanted, str):
            return Score(None, "the reference has no intent")
        got = first_object(output)
        if got is None:
            return Score(0.0, "no JSON object in the answer")
        if "intent" not in got:
            return Score(0.0, "the answer has no intent")
        return Score(1.0) if got["intent"] == wanted else Score(0.0, f"{got['intent']!r} instead of {wanted!r}")


def create() -> IntentMatch:
    """The metric."""
    return IntentMatch()
