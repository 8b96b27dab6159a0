"""What is a metric, and what does it say about one answer?"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from pilothouse.core.messages import Row


class Score(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric's value for one answer. None: this metric does not apply to this row; `note` says why."""

    value: float | None
    note: str = ""


class Metric(Protocol):
    """Scores one answer against its row. Pure: the same row and answer give the same score.

    range: lowest and highest value. Higher is always better. binary: every score is 0 or 1, so shares and exact
    paired tests apply. needs: what a row must bring. source: where the formula comes from.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def range(self) -> tuple[float, float]: ...
    @property
    def direction(self) -> Literal["higher"]: ...
    @property
    def binary(self) -> bool: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...

    def score(self, row: Row, output: str) -> Score:
        """The score of `output` as the answer to `row`."""
