"""`/v1/responses`, OpenAI's newer form: items in, items out, named events. Nothing is kept between calls."""

from __future__ import annotations

import time
from typing import Any

from pilothouse.serve.gateway.dialect import Place
from pilothouse.serve.gateway.dialects._events import identity, named
from pilothouse.serve.gateway.dialects._pieces import figure, first, pieces
from pilothouse.serve.gateway.dialects._responses_items import Event, Items
from pilothouse.serve.gateway.dialects._responses_request import to_chat
from pilothouse.serve.gateway.dialects._texts import chat_texts
from pilothouse.serve.gateway.errors import ApiError

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by the chat form's reason."""
_REPEATED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)


class Answer:
    """One response while it grows, from chunks or from a whole answer."""

    def __init__(self, asked: dict[str, Any], request_id: str) -> None:
        self._asked, self._id = asked, f"resp_{identity(request_id)}"
        self._items, self._created = Items(request_id), 0
        self._finish, self._usage, self._decision = "", dict[str, Any](), dict[str, Any]()

    def take(self, answer: dict[str, Any]) -> list[Event]:
        """A chunk, or the whole answer: what it adds."""
        self._created = self._created or int(answer.get("created") or 0)
        self._usage = answer.get("usage") or self._usage
        self._decision = answer.get("pilothouse") or self._decision
        choice = first(answer)
        if choice is None:
            return []
        self._finish = choice.get("finish_reason") or self._finish
        return [event for piece in pieces(choice) for event in self._items.add(piece)]

    def close(self) -> list[Event]:
        """The end of every item."""
        return self._items.close(complete=self._finish not in _INCOMPLETE)

    @property
    def status(self) -> str:
        """What became of it, once closed."""
        return "incomplete" if self._finish in _INCOMPLETE else "completed"

    def response(self, status: str, *, error: str = "") -> dict[str, Any]:
        """The response object now."""
        asked = self._asked
        self._created = self._created or int(time.time())
        incomplete = {"reason": _INCOMPLETE[self._finish]} if status == "incomplete" else None
        effort = (asked.get("reasoning") or {}).get("effort")
        told = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": asked["model"],
            "output": self._items.all if status != "in_progress" else [],
            "error": {"code": "server_error", "message": error} if error else None,
            "incomplete_details": incomplete,
            **{name: asked.get(name) for name in _REPEATED},
            "metadata": asked.get("metadata") or {},
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "reasoning": {"effort": effort, "summary": None},
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": [{"parameters": None, "strict": None, **tool} for tool in asked.get("tools") or []],
            "top_logprobs": asked.get("top_logprobs") or 0,
            "truncation": "disabled",
            "background": False,
            "previous_response_id": None,
            "store": False,
            "usage": _usage(self._usage) if self._usage else None,
        }
        return told | ({"pilothouse": self._decision} if self._decision else {})


class ResponseStream:
    """Events in order, numbered."""

    def __init__(self, asked: dict[str, Any], request_id: str) -> None:
        self._answer = Answer(asked, request_id)
        self._number = 0

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """What a chunk adds; before the first, that the response exists."""
        events = self._answer.take(chunk)
        return self._begin() + self._told(events)

    def end(self) -> bytes:
        """Every item ends, then the response; there is no [DONE] in this form."""
        start = self._begin()
        events = self._answer.close()
        status = self._answer.status
        events.append({"type": f"response.{status}", "response": self._answer.response(status)})
        return start + self._told(events)

    def fail(self, code: str, message: str) -> bytes:
        """The response failed. Its error knows few codes: ours stands before the message."""
        failed = {"type": "response.failed", "response": self._answer.response("failed", error=f"{code}: {message}")}
        return self._begin() + self._told([failed])

    def _begin(self) -> bytes:
        if self._number:
            return b""
        response = self._answer.response("in_progress")
        return self._told([{"type": f"response.{t}", "response": response} for t in ("created", "in_progress")])

    def _told(self, events: list[Event]) -> bytes:
        written = b"".join([named({**e, "sequence_number": self._number + i}) for i, e in enumerate(events)])
        self._number += len(events)
        return written


class Responses:
    """The dialect."""

    path = "/v1/responses"
    engine_path = "/v1/chat/completions"
    answers_text = True

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A chat request."""
        return to_chat(asked)

    def texts(self, body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
        """As in chat."""
        return chat_texts(body)

    def lift(self, answer: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """The engine was asked for chat."""
        return answer

    def whole(self, answer: dict[str, Any], asked: dict[str, Any], request_id: str) -> dict[str, Any]:
        """The response object."""
        grown = Answer(asked, request_id)
        grown.take(answer)
        grown.close()
        return grown.response(grown.status)

    def stream(self, asked: dict[str, Any], request_id: str) -> ResponseStream:
        """Named events."""
        return ResponseStream(asked, request_id)

    def error(self, error: ApiError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error.encoded()


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    told, made = figure(usage, "prompt_tokens"), figure(usage, "completion_tokens")
    return {
        "input_tokens": told,
        "input_tokens_details": {
            "cached_tokens": figure(usage, "prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": figure(usage, "prompt_tokens_details", "cache_write_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {
            "reasoning_tokens": figure(usage, "completion_tokens_details", "reasoning_tokens"),
        },
        "total_tokens": told + made,
    }


def create() -> Responses:
    """The member."""
    return Responses()
