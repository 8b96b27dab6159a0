"""Prompt injection, jailbreaks and prompt extraction by weighted patterns: a rule-based first line, no more.

It undoes common disguises (`guard.normalise`), then adds up evidence: score = 1 − Π(1 − weight) over the distinct rules
that match within one stretch of text. It knows phrasings, not intentions: an attack in new words passes, and a question
about attacks may be refused. Sources of the phrasings: the published families (override, persona, restriction removal,
prompt extraction, forged roles, exfiltration), not any evaluation set. Its numbers belong in the guard sheet.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pilothouse.guard.base import Cost, Direction, Span, Window
from pilothouse.guard.normalise import readings

STRETCH, OVERLAP = 1200, 200  # characters scored together: long harmless documents must not add up to an attack


class Evidence(NamedTuple):
    """One rule."""

    category: str
    weight: float
    regex: re.Pattern[str]


@cache
def rules() -> tuple[Evidence, ...]:
    """The rules of `guard/rules/injection.toml`, compiled."""
    data = tomllib.loads((files("pilothouse.guard") / "rules" / "injection.toml").read_text(encoding="utf-8"))
    fragments = {f"%{name}%": source for name, source in data["fragments"].items()}

    def whole(source: str) -> str:
        for name, fragment in fragments.items():
            source = source.replace(name, fragment)
        return source

    return tuple(Evidence(r["category"], r["weight"], re.compile(whole(r["regex"]))) for r in data["rule"])


@dataclass(frozen=True)
class InjectionRules:
    """Weighted patterns over the disguises' readings."""

    name: str = "injection"
    cost: Cost = "small"
    directions: tuple[Direction, ...] = ("input", "output")
    owasp: tuple[str, ...] = ("LLM01:2025", "LLM07:2025")
    stream: Window = field(default_factory=lambda: Window(1024, 128))

    def inspect(self, text: str) -> Sequence[Span]:
        """One span over the text, the strongest stretch's score; [] when no rule matches."""
        best, why = 0.0, ""
        category = ""
        for reading in readings(text):
            for start in range(0, max(1, len(reading.text) - OVERLAP), STRETCH - OVERLAP):
                score, found = score_stretch(reading.text[start : start + STRETCH])
                if found and reading.how not in ("plain", "spaced", "leet"):
                    score = 1 - (1 - score) * 0.6  # who encodes an order has a reason to
                if score > best:
                    best, category = score, max(found, key=lambda e: e.weight).category
                    why = f"{', '.join(dict.fromkeys(e.category for e in found))} ({reading.how})"
        return [Span(0, len(text), category, round(best, 4), why)] if best else []


def score_stretch(text: str) -> tuple[float, list[Evidence]]:
    """Noisy-or over the rules that match a stretch of plain text, and those rules."""
    found = [rule for rule in rules() if rule.regex.search(text)]
    rest = 1.0
    for rule in found:
        rest *= 1 - rule.weight
    return 1 - rest, found


def create() -> InjectionRules:
    """No options: the threshold is the rule's."""
    rules()
    return InjectionRules()
