"""Which rows say the same, and what is tidied away before anybody compares: text hygiene and deduplication."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import msgspec

from pilothouse.core import digest
from pilothouse.core.messages import Message, Row

# Zero-width marks and control characters other than tab and newline: invisible, and poison to exact matching.
# U+200C and U+200D stay: Persian, Hindi and emoji need them.
_INVISIBLE = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u200b\u2060\ufeff]")
# Sentence marks only: + - * / = # < > carry meaning in code and sums. Replaced by a space, so 1.5 does not become 15.
_MARKS = re.compile(r"[.,;:!?¡¿…\"'“”‘’«»()\[\]]")


def tidy(text: str) -> str:
    """Canonical composition (NFC), newlines as \\n, invisible characters gone, no outer space. Idempotent."""
    plain = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return unicodedata.normalize("NFC", plain).strip()


def normalise(text: str) -> str:
    """What two texts are compared by: compatibility forms, case, sentence marks and spacing aside."""
    return " ".join(_MARKS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def tidy_row(row: Row) -> Row:
    """The row with every text tidied."""
    messages = tuple(Message(m.role, tidy(m.content)) for m in row.messages)
    return msgspec.structs.replace(row, messages=messages, answer=tidy(row.answer))


class Deduplicated(msgspec.Struct, frozen=True):
    """Rows kept (the first of each kind), and how many were dropped; conflicts: same question, another answer, kept."""

    rows: list[Row]
    exact: int
    near: int
    conflicts: int


def deduplicate(rows: Sequence[Row]) -> Deduplicated:
    """Drop rows whose messages and answer equal an earlier row's: exactly, or after `normalise`."""
    exact: set[str] = set()
    near: set[str] = set()
    asked: set[str] = set()
    kept: list[Row] = []
    counts = [0, 0, 0]
    for row in rows:
        turns = [[m.role, m.content] for m in row.messages]
        loose = [[m.role, normalise(m.content)] for m in row.messages]
        same, alike = digest.of_json([turns, row.answer]), digest.of_json([loose, normalise(row.answer)])
        question = digest.of_json(loose)
        if same in exact:
            counts[0] += 1
            continue
        if alike in near:
            counts[1] += 1
            continue
        counts[2] += question in asked
        exact.add(same)
        near.add(alike)
        asked.add(question)
        kept.append(row)
    return Deduplicated(kept, *counts)
