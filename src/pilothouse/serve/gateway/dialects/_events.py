"""How one server-sent event is written: OpenAI's older forms send bare data, the newer ones and Anthropic's name it."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def event(data: dict[str, Any]) -> bytes:
    """An event without a name."""
    return b"data: %b\n\n" % _encode(data)


def named(data: dict[str, Any]) -> bytes:
    """An event named by its data's `type`."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), _encode(data))


def broken(code: str, message: str) -> bytes:
    """OpenAI's error inside a stream."""
    return event({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def identity(request_id: str) -> str:
    """The part of a request's id that the ids of its answer and the answer's pieces share."""
    return request_id.removeprefix("req_")
