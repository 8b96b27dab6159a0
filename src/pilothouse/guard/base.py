"""What is a detector: its records, its cost, and how it behaves in a stream (an exact matcher or a window)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pilothouse.core.records import Finding

# micro: < 0.1 ms per 1,000 characters; small: < 5 ms; model: a network; judge: a language model (DESIGN 4).
Cost = Literal["micro", "small", "model", "judge"]
Direction = Literal["input", "output"]
Action = Literal["pass", "flag", "redact", "block"]

HOLD_CAP = 256
"""No pattern may need more undecided characters than this, so a stream never holds back more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a detector saw something in the inspected text, and how sure it is."""

    start: int
    end: int
    category: str
    score: float = 1.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One exact thing to find: a bounded regular expression (the subset of `guard.partial`) and its borders.

    left, right: a character class (`[0-9]`) that must not stand directly before or after; one character is looked at.
    check: gets the matched text (the first group's, if the source has one) and says how many of its first characters
    count: 0 for none. It settles checksums, and may cut a greedy match back to the part that is valid.
    tail: a character class; the run of such characters after the match belongs to it, however long (unless check cut
    the match).
    until: a regular expression; everything up to and including it belongs to the match (16,384 characters at most).
    If the source has a group, only the group, tail and until are the finding; what stands before it stays readable.
    """

    category: str
    source: str
    left: str = ""
    right: str = ""
    check: Callable[[str], int] | None = None
    tail: str = ""
    until: str = ""
    score: float = 1.0

    @property
    def label(self) -> str:
        """What stands in the place of a redacted finding."""
        return f"[{self.category.upper()}]"


@dataclass(frozen=True, slots=True)
class Exact:
    """Stream behaviour: patterns; only what could still become a match is held back."""

    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Stream behaviour: the last `size` characters are inspected again after every `stride` new ones; no holding."""

    size: int = 1024
    stride: int = 96


class Detector(Protocol):
    """A member of `guard/detectors`. `inspect` is deterministic and keeps no state between texts."""

    @property
    def name(self) -> str:
        """The file's name, with dashes."""

    @property
    def cost(self) -> Cost:
        """micro and small detectors run inline; model and judge in a thread, given up after the rule's timeout."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Where it makes sense."""

    @property
    def owasp(self) -> tuple[str, ...]:
        """Risks it addresses, OWASP Top 10 for LLM applications."""

    @property
    def stream(self) -> Exact | Window:
        """How it behaves in a stream."""

    def inspect(self, text: str) -> Sequence[Span]:
        """Everything it sees in one whole text."""


@dataclass(frozen=True, slots=True)
class InputDecision:
    """What the policy says about a request. `texts` are redacted where a rule redacts or blocks a span.

    unscanned: detectors that failed. With any, `action` is at least "flag": what nobody looked at never passed.
    detector: whose rule decided; "" when the action is "pass".
    """

    action: Action
    texts: tuple[str, ...]
    findings: tuple[Finding, ...]
    detector: str
    unscanned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Emission:
    """What may go to the client now; `blocked` when the answer ends here (later emissions are empty)."""

    text: str
    blocked: Finding | None = None
