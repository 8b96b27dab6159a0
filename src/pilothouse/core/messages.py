"""Chat messages and rows: the shape of training and evaluation data."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class Message(msgspec.Struct, frozen=True):
    """One chat message."""

    role: Role
    content: str


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One example: messages up to the last user turn, the wanted answer, its origin.

    `answer` is the reference text of the assistant's turn. `group` keeps related rows in one split (a template, a
    customer, a day). `tags` slice reports.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    group: str = ""
    tags: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user message's text ('' when there is none)."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


def with_system(messages: tuple[Message, ...], system: str) -> list[dict[str, str]]:
    """Messages as the API takes them, with `system` in front unless they bring their own or it is empty."""
    plain = [{"role": m.role, "content": m.content} for m in messages]
    if system and not any(m["role"] == "system" for m in plain):
        plain.insert(0, {"role": "system", "content": system})
    return plain
