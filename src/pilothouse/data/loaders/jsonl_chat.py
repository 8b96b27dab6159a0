"""JSON lines of chats: {"messages": [{"role", "content"}, …], "id"?, "group"?, "tags"?}; the answer comes last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pilothouse.core.messages import Message, Role
from pilothouse.data import lines
from pilothouse.data.base import Bad, Loaded, Reject, Source

ROLES = ("system", "user", "assistant")


class JsonlChat:
    """Reads chats as the OpenAI and Hugging Face tools write them."""

    def rows(self, source: Source) -> Iterator[Loaded | Reject]:
        """Each row of the file, or why it is none."""
        return lines.rows(source, _turns, field="messages")


def _turns(record: dict[str, Any]) -> list[Message]:
    messages = record.get("messages")
    if messages is None:
        raise Bad("messages", "missing field")
    if not isinstance(messages, list):
        raise Bad("messages", "not a list")
    turns = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Bad(f"messages[{i}]", "not an object")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise Bad(f"messages[{i}].role", "unknown role", f"{role!r} is none of {', '.join(ROLES)}")
        if not isinstance(content, str):
            missing = content is None
            raise Bad(f"messages[{i}].content", "missing field" if missing else "not a string")
        turns.append(Message(cast(Role, role), content))
    return turns


def create() -> JsonlChat:
    """The loader; it has no options."""
    return JsonlChat()
