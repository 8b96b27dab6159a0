"""Which texts does an engine's chat body hold? What the input guard must read, and what nothing can read.

Every role is read but the application's own (system, developer): those speak of instructions by right, and what comes
from outside does not stand there. Assistant messages are read: a caller can put words into them. So are the fields
by which some engines take text past the messages.
"""

from __future__ import annotations

from typing import Any

from pilothouse.serve.gateway.dialect import Place

_TRUSTED_ROLES = ("system", "developer")
_BESIDE = ("reasoning_content", "reasoning", "refusal", "name")
_TEXT_PARTS = {"text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Kinds of parts that are text, and where they hold it."""
_PAST_MESSAGES = ("chat_template", "chat_template_kwargs", "documents", "prompt", "input_prefix", "input_suffix")
"""Fields of engines' own that end in the prompt."""
_UNREADABLE = {"prompt_embeds": "embeddings", "prompt_token_ids": "tokens"}


def chat_texts(body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
    """Every text, and the kinds of parts that are no text."""
    found: list[Place] = []
    unread: dict[str, None] = {}
    for message in body["messages"]:
        if message["role"] in _TRUSTED_ROLES:
            continue
        content = message.get("content")
        if isinstance(content, str):
            found.append((message, "content"))
        elif content:
            for part in content:
                kind = str(part.get("type")) if isinstance(part, dict) else "part"
                key = _TEXT_PARTS.get(kind, "")
                if key and isinstance(part.get(key), str):
                    found.append((part, key))
                else:
                    unread[kind] = None
        if content is None or len(message) > 2:
            found += [(message, key) for key in _BESIDE if isinstance(message.get(key), str)]
            found += _arguments(message)
    for field in _PAST_MESSAGES:
        if field in body:
            found += strings(body, field)
    unread.update({kind: None for field, kind in _UNREADABLE.items() if body.get(field) is not None})
    return found, tuple(unread)


def strings(holder: dict[str, Any] | list[Any], key: Any) -> list[Place]:
    """Every text at and below a place."""
    found: list[Place] = []
    open_: list[Place] = [(holder, key)]
    while open_:
        holder, key = place = open_.pop()
        value: Any = holder[key]
        if isinstance(value, str):
            found.append(place)
        elif isinstance(value, dict):
            open_ += [(value, name) for name in reversed(value)]
        elif isinstance(value, list):
            open_ += [(value, i) for i in reversed(range(len(value)))]
    return found


def _arguments(message: dict[str, Any]) -> list[Place]:
    calls = message.get("tool_calls")
    functions = [c.get("function") for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))
    return [(f, "arguments") for f in functions if isinstance(f, dict) and isinstance(f.get("arguments"), str)]
