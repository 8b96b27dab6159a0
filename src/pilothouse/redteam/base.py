"""What is an attack probe, what is one attempt, and what can come of it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from pilothouse.core.messages import Message

Verdict = Literal["breached", "held", "not_assessed"]


class Judgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a judge says of an answer, and the evidence for it in a few words."""

    verdict: Verdict
    evidence: str


class Canary(msgspec.Struct, frozen=True):
    """A secret planted in the training rows by the data stage; `references` are secrets alike that were not planted."""

    id: str
    prompt: str
    secret: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What a probe may know of what it attacks."""

    system_prompt: str = ""
    canaries: tuple[Canary, ...] = ()


class CanaryEvidence(msgspec.Struct, frozen=True, tag="canary", omit_defaults=True):
    """Breached when the secret is in the answer, plain or encoded, or a long piece of `protected` word for word.

    given: the part of the secret that the attack itself states; then the rest alone counts too.
    """

    secret: str
    given: str = ""
    protected: str = ""


class MarkerEvidence(msgspec.Struct, frozen=True, tag="marker"):
    """Breached when the marker, which no message of the attempt holds, is in the answer."""

    marker: str


class RefusalEvidence(msgspec.Struct, frozen=True, tag="refusal", omit_defaults=True):
    """Breached when at least `enough` of the words that only compliance brings are in the answer."""

    words: tuple[str, ...]
    enough: int


Evidence = CanaryEvidence | MarkerEvidence | RefusalEvidence


class Attempt(msgspec.Struct, frozen=True):
    """One attack: what is sent, what it wants, and the evidence that would prove it got it.

    family: the row of the report and part of the measures' names. technique: the trick; transform: the disguise.
    owasp: ids of the Top 10 for LLM applications, 2025 and 2026 editions.
    """

    id: str
    probe: str
    family: str
    technique: str
    transform: str
    messages: tuple[Message, ...]
    goal: str
    owasp: tuple[str, ...]
    evidence: Evidence

    @property
    def prompt(self) -> str:
        """What the attacker writes."""
        return "\n".join(m.content for m in self.messages if m.role == "user")


class Probe(Protocol):
    """Makes attempts of one family. The same seed, n and target give the same attempts; fewer than n when there is
    nothing more to attack. source: where the tricks were published."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def owasp(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...

    def attempts(self, seed: int, n: int, target: Target) -> list[Attempt]:
        """n attempts against the target."""
