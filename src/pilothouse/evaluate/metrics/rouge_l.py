"""ROUGE-L: F-measure of the longest common subsequence of words (weak on meaning: a check on wording only)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pilothouse.core.errors import need
from pilothouse.core.messages import Row
from pilothouse.evaluate.base import Score

NEEDS = {"rouge_score": "eval"}
_WORD = re.compile(r"[^\W_]+")


class Words:
    """rouge-score's tokens (lower-case runs of letters and digits), for every script and not only ASCII.

    Its default tokenizer drops every letter outside a–z and so cuts "avión" into "avi" and "n". Scripts without
    spaces between words (Chinese, Thai) give one token a run.
    """

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class RougeL:
    """rouge-score's rougeL F-measure, no stemming; the word order counts, gaps do not."""

    scorer: Any
    name: str = "rouge-l"
    label: str = "ROUGE-L"
    range: tuple[float, float] = (0.0, 1.0)
    direction: Literal["higher"] = "higher"
    binary: bool = False
    needs: tuple[str, ...] = ("reference",)
    source: str = "Lin 2004 (ACL W04-1013), Google's rouge-score"

    def score(self, row: Row, output: str) -> Score:
        return Score(float(self.scorer.score(row.answer, output)["rougeL"].fmeasure))


def create() -> RougeL:
    """The metric; needs rouge-score (extra "eval")."""
    need("rouge_score", "eval", "the metric rouge-l")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeL(RougeScorer(["rougeL"], tokenizer=Words()))
