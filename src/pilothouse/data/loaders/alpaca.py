"""JSON lines in Alpaca's shape: {"instruction", "input"?, "output", "system"?, "id"?, "group"?, "tags"?}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilothouse.core.messages import Message
from pilothouse.data import lines
from pilothouse.data.base import Bad, Loaded, Reject, Source


class Alpaca:
    """Reads instruction rows; `input`, when there is one, follows the instruction after an empty line."""

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or why it is none."""
        return lines.rows(source, _turns, field="output")


def _turns(record: dict[str, Any]) -> list[Message]:
    instruction, given = lines.string(record, "instruction"), lines.string(record, "input", default="")
    output, system = lines.string(record, "output"), lines.string(record, "system", default="")
    if not instruction.strip():
        raise Bad("instruction", "empty message")
    if not output.strip():
        raise Bad("output", "empty answer")
    turns = [Message("system", system)] if system.strip() else []
    turns.append(Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction))
    turns.append(Message("assistant", output))
    return turns


def create() -> Alpaca:
    """The loader; it has no options."""
    return Alpaca()
