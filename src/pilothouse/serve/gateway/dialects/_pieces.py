"""What does a chat message or delta say, piece by piece? The order in which forms with items or blocks begin them.

A whole message is one large delta here: the same code then builds a whole answer and a streamed one, and they agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["reasoning", "text", "refusal", "call"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of one kind; of a call: its arguments, its place among the calls, id and name when they come."""

    kind: Kind
    text: str
    call: int = 0
    id: str = ""
    name: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


def pieces(choice: dict[str, Any]) -> Iterator[Piece]:
    """All of a choice's message or delta, reasoning first, calls last."""
    holder = choice.get("delta") or choice.get("message") or {}
    reasoning = _text(holder, "reasoning_content") or _text(holder, "reasoning")
    if reasoning:
        yield Piece("reasoning", reasoning)
    text, logprobs = _text(holder, "content"), _logprobs(choice)
    calls = holder.get("tool_calls") or []
    if text or (logprobs and not (reasoning or calls)):
        yield Piece("text", text, logprobs=logprobs)
    if refusal := _text(holder, "refusal"):
        yield Piece("refusal", refusal)
    for place, call in enumerate(calls):
        function = call.get("function") or {}
        index = call.get("index")
        yield Piece(
            "call",
            _text(function, "arguments"),
            call=index if isinstance(index, int) else place,
            id=_text(call, "id"),
            name=_text(function, "name"),
        )


def first(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The choice that forms with one answer show."""
    return next((c for c in answer.get("choices") or [] if not c.get("index")), None)


def figure(usage: dict[str, Any], *path: str) -> int:
    """A number in a usage object, 0 where the engine does not tell."""
    value: Any = usage
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return int(value) if isinstance(value, int | float) else 0


def _text(holder: dict[str, Any], key: str) -> str:
    value = holder.get(key)
    return value if isinstance(value, str) else ""


def _logprobs(choice: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    return tuple(content) if isinstance(content, list) else ()
