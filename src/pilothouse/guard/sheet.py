"""What a guard sheet is made of: each text's verdict, each stream's cost, each plant's fate."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from pilothouse.core.records import Finding


class Judged(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text and what the policy said. `text` is as redacted."""

    kind: str
    text: str
    action: str
    detector: str
    findings: tuple[Finding, ...]
    unscanned: tuple[str, ...]
    ms: float


@dataclass
class Sheet:
    """Everything measured; the report is made from it alone."""

    rules: list[str]
    judged: list[Judged] = field(default_factory=list)
    chunk_us: list[float] = field(default_factory=list)  # one mean a text
    held: list[list[int]] = field(default_factory=list)  # characters, one list a text, one value a chunk
    changed_benign: int = 0
    blocked_benign_output: int = 0
    planted: dict[str, list[int]] = field(default_factory=dict)  # category → [leaked, planted]
    uncovered: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[Judged]:
        """Attacks or benign texts."""
        return [j for j in self.judged if j.kind == kind]
