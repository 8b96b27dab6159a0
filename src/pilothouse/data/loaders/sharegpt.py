"""JSON lines in ShareGPT's shape: {"conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}], …}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilothouse.core.messages import Message, Role
from pilothouse.data import lines
from pilothouse.data.base import Bad, Loaded, Reject, Source

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class ShareGpt:
    """Reads conversations; the last turn is the answer."""

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or why it is none."""
        return lines.rows(source, _turns, field="conversations")


def _turns(record: dict[str, Any]) -> list[Message]:
    conversation = record.get("conversations")
    if conversation is None:
        raise Bad("conversations", "missing field")
    if not isinstance(conversation, list):
        raise Bad("conversations", "not a list")
    turns = []
    for i, turn in enumerate(conversation):
        if not isinstance(turn, dict):
            raise Bad(f"conversations[{i}]", "not an object")
        speaker, value = turn.get("from"), turn.get("value")
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise Bad(f"conversations[{i}].from", "unknown role", f"{speaker!r} is none of {', '.join(ROLES)}")
        if not isinstance(value, str):
            raise Bad(f"conversations[{i}].value", "missing field" if value is None else "not a string")
        turns.append(Message(ROLES[speaker], value))
    return turns


def create() -> ShareGpt:
    """The loader; it has no options."""
    return ShareGpt()
