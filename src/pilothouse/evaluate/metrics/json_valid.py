"""Valid JSON: the whole answer is one JSON object (RFC 8259), with nothing before or after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score
from pilothouse.evaluate.task_json import first_object, whole_object


@dataclass(frozen=True, slots=True)
class JsonValid:
    """1 when the whole answer parses as a JSON object, else 0. Code fences and talk round it make it 0."""

    name: str = "json-valid"
    label: str = "valid JSON"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = True
    needs: tuple[str, ...] = ()
    source: str = "RFC 8259"

    def score(self, row: Row, output: str) -> Score:
        if whole_object(output) is not None:
            return Score(1.0)
        return Score(0.0, "text round a JSON object" if first_object(output) is not None else "no JSON object")


def create() -> JsonValid:
    """The metric."""
    return JsonValid()
