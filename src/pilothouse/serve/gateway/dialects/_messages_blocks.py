"""The content blocks of a message as they grow, and the events that tell of each step.

Blocks come one after another: each ends before the next begins. A guard may hold back the end of a text until the
answer is whole, though, and what belongs to a block that has ended cannot be told any more. So a text goes on in a
second block, and of several calls only the first comes as it is made: the others wait for the end.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pilothouse.serve.gateway.dialects._pieces import Piece

Event = dict[str, Any]

_DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


class Blocks:
    """All blocks of one message."""

    def __init__(self, message_id: str) -> None:
        self._id = message_id
        self.all: list[dict[str, Any]] = []
        self.called = False
        self._open = False
        self._arguments = ""
        self._current: tuple[str, int] = ("", 0)
        self._waiting: dict[tuple[str, int], list[Piece]] = {}

    def add(self, piece: Piece) -> list[Event]:
        """What one piece does."""
        key = _key(piece)
        self.called |= piece.kind == "call"
        if self._open and self._current[0] == "call" and key != self._current:
            self._waiting.setdefault(key, []).append(piece)
            return []
        return self._grow(key, piece)

    def close(self) -> list[Event]:
        """What waited comes now, and the last block ends."""
        events: list[Event] = []
        for key, pieces in sorted(self._waiting.items(), key=lambda waiting: waiting[0][0] == "call"):
            for piece in pieces:
                events += self._grow(key, piece)
        self._waiting = {}
        return events + self._stop()

    def _grow(self, key: tuple[str, int], piece: Piece) -> list[Event]:
        events: list[Event] = []
        if not self._open or key != self._current:
            events += self._stop() + self._start(key, piece)
        if not piece.text:
            return events
        block, at = self.all[-1], {"index": len(self.all) - 1}
        if key[0] == "call":
            self._arguments += piece.text
            delta = {"type": "input_json_delta", "partial_json": piece.text}
        else:
            kind, field = _DELTAS[key[0]]
            block[field] += piece.text
            delta = {"type": kind, field: piece.text}
        events.append({"type": "content_block_delta", **at, "delta": delta})
        return events

    def _start(self, key: tuple[str, int], piece: Piece) -> list[Event]:
        block: dict[str, Any]
        if key[0] == "call":
            block = {"id": piece.id or f"toolu_{self._id}_{piece.call}", "name": piece.name, "input": {}}
            block = {"type": "tool_use", **block}
        elif key[0] == "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": "", "citations": None}
        self.all.append(block)
        self._open, self._current, self._arguments = True, key, ""
        return [{"type": "content_block_start", "index": len(self.all) - 1, "content_block": {**block}}]

    def _stop(self) -> list[Event]:
        if not self._open:
            return []
        self._open = False
        if self._current[0] == "call":
            self.all[-1]["input"] = _input(self._arguments)
        return [{"type": "content_block_stop", "index": len(self.all) - 1}]


def _key(piece: Piece) -> tuple[str, int]:
    if piece.kind == "call":
        return "call", piece.call
    return ("thinking" if piece.kind == "reasoning" else "text"), 0


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object. What is none (an answer cut off in its midst) is kept as Anthropic advises to."""
    if not arguments.strip():
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}
