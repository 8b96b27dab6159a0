"""What a loader must be, and what it yields: rows, and rejects that name file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from pilothouse.core import digest
from pilothouse.core.messages import Message, Row


@dataclass(frozen=True)
class Source:
    """One file of rows. `shown` is what errors and rejects call it (the reference as the project wrote it)."""

    path: Path
    shown: str


class Reject(msgspec.Struct, frozen=True):
    """A row that cannot be used. `reason` is a short fixed phrase, counted in tables; `detail` has the particulars."""

    file: str
    line: int
    field: str
    reason: str
    detail: str = ""

    def say(self) -> str:
        """`file:line: field: reason (detail)`."""
        where = f"{self.file}:{self.line}: {self.field}" if self.field else f"{self.file}:{self.line}"
        return f"{where}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class Loaded(msgspec.Struct, frozen=True):
    """A row and the line that it began on."""

    line: int
    row: Row


class Bad(Exception):
    """A row that breaks the format's rules; loaders turn it into a Reject with file and line."""

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        self.field, self.reason, self.detail = field, reason, detail
        super().__init__(reason)

    def at(self, source: Source, line: int) -> Reject:
        """The Reject of this fault at its place."""
        return Reject(source.shown, line, self.field, self.reason, self.detail)


class Loader(Protocol):
    """Reads one format. A file that is broken as a file (bad JSON, not UTF-8) raises UserError with the line."""

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or the reason why it is none, in file order and in constant memory."""


def build(
    turns: list[Message],
    *,
    field: str,
    id: str = "",
    group: str = "",
    tags: tuple[str, ...] = (),
) -> Row:
    """A Row of a whole conversation, its last turn being the answer; raises Bad when the turns make no example.

    Order: at most one system message, first; then user and assistant by turns, from user to assistant. Several
    assistant turns: the last is the answer, the others are context. Without an id the content's digest is the id.
    """
    body = turns[1:] if turns and turns[0].role == "system" else turns
    if not body:
        raise Bad(field, "no messages")
    if body[-1].role != "assistant":
        raise Bad(f"{field}[{len(turns) - 1}]", "missing answer", f"the last message is the {body[-1].role}'s")
    first = len(turns) - len(body)
    for i, turn in enumerate(body):
        wanted = "assistant" if i % 2 else "user"
        if turn.role != wanted:
            raise Bad(f"{field}[{first + i}].role", "wrong role order", f"{turn.role} where {wanted} was due")
    for i, turn in enumerate(turns):
        if not turn.content.strip():
            what = "empty answer" if i == len(turns) - 1 else "empty message"
            raise Bad(f"{field}[{i}].content", what)
    messages, answer = tuple(turns[:-1]), turns[-1].content
    identity = id or digest.of_json([[[m.role, m.content] for m in messages], answer])[:16]
    return Row(identity, messages, answer, group, tags)
