"""The items of a response as they grow, and the events that tell of each step."""

from __future__ import annotations

from typing import Any

from pilothouse.serve.gateway.dialects._events import identity
from pilothouse.serve.gateway.dialects._pieces import Kind, Piece

Event = dict[str, Any]

_PREFIX = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_HOMES: dict[Kind, tuple[str, str, str]] = {
    "reasoning": ("reasoning", "reasoning_text", "text"),
    "text": ("message", "output_text", "text"),
    "refusal": ("message", "refusal", "refusal"),
}
"""Where a piece goes: the item's type, the part's type, the part's field."""


class Items:
    """All items of one response.

    An item stays open until the end: what a guard holds back of a text comes last, after calls have begun.
    """

    def __init__(self, request_id: str) -> None:
        self._id = identity(request_id)
        self.all: list[dict[str, Any]] = []
        self._places: dict[tuple[str, int], int] = {}

    def add(self, piece: Piece) -> list[Event]:
        """What one piece does."""
        return self._call(piece) if piece.kind == "call" else self._grow(piece)

    def close(self, *, complete: bool) -> list[Event]:
        """The end of every item; the last is incomplete when the response is. There is one item at least."""
        events = [] if self.all else self._grow(Piece("text", ""))
        for place, item in enumerate(self.all):
            item["status"] = "completed" if complete or place < len(self.all) - 1 else "incomplete"
            at = {"item_id": item["id"], "output_index": place}
            if item["type"] == "function_call":
                events.append({"type": "response.function_call_arguments.done", **at, "arguments": item["arguments"]})
            else:
                for i, part in enumerate(item["content"]):
                    here = {**at, "content_index": i}
                    events.append(_text_done(part, here))
                    events.append({"type": "response.content_part.done", **here, "part": part})
            events.append({"type": "response.output_item.done", "output_index": place, "item": item})
        return events

    def _grow(self, piece: Piece) -> list[Event]:
        kind, part_kind, field = _HOMES[piece.kind]
        events: list[Event] = []
        place = self._places.get((kind, 0))
        if place is None:
            place = self._begin(events, kind, {"summary": []} if kind == "reasoning" else {"role": "assistant"})
            self.all[place]["content"] = []
        item = self.all[place]
        parts: list[dict[str, Any]] = item["content"]
        index = next((i for i, part in enumerate(parts) if part["type"] == part_kind), len(parts))
        at = {"item_id": item["id"], "output_index": place, "content_index": index}
        if index == len(parts):
            parts.append(_part(part_kind, field))
            events.append({"type": "response.content_part.added", **at, "part": _part(part_kind, field)})
        part = parts[index]
        if piece.text or piece.logprobs:
            part[field] += piece.text
            event = {"type": f"response.{part_kind}.delta", **at, "delta": piece.text}
            if part_kind == "output_text":
                event["logprobs"] = [_logprob(entry) for entry in piece.logprobs]
                part["logprobs"] += event["logprobs"]
            events.append(event)
        return events

    def _call(self, piece: Piece) -> list[Event]:
        events: list[Event] = []
        place = self._places.get(("function_call", piece.call))
        if place is None:
            fields = {"call_id": piece.id or f"call_{self._id}_{piece.call}", "name": piece.name, "arguments": ""}
            place = self._begin(events, "function_call", fields, piece.call)
        if piece.text:
            item = self.all[place]
            item["arguments"] += piece.text
            at = {"item_id": item["id"], "output_index": place}
            events.append({"type": "response.function_call_arguments.delta", **at, "delta": piece.text})
        return events

    def _begin(self, events: list[Event], kind: str, fields: dict[str, Any], call: int = 0) -> int:
        place = len(self.all)
        item = {"id": f"{_PREFIX[kind]}_{self._id}_{place}", "type": kind, "status": "in_progress", **fields}
        self.all.append(item)
        self._places[kind, call] = place
        shown = {**item} if kind == "function_call" else {**item, "content": []}
        events.append({"type": "response.output_item.added", "output_index": place, "item": shown})
        return place


def _part(kind: str, field: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, field: "", **extra}


def _text_done(part: dict[str, Any], at: dict[str, Any]) -> Event:
    kind = part["type"]
    told = {"refusal": part["refusal"]} if kind == "refusal" else {"text": part["text"]}
    if kind == "output_text":
        told["logprobs"] = part["logprobs"]
    return {"type": f"response.{kind}.done", **at, **told}


def _logprob(entry: dict[str, Any]) -> dict[str, Any]:
    """A token's probability; the form wants its bytes, which some engines leave out."""
    top = [_token(t) for t in entry.get("top_logprobs") or []]
    return {**_token(entry), "top_logprobs": top}


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    token = entry.get("token") or ""
    spelled = entry.get("bytes")
    return {
        "token": token,
        "logprob": entry.get("logprob"),
        "bytes": list(token.encode()) if spelled is None else spelled,
    }
