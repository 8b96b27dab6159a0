"""`/v1/messages`, Anthropic's form: blocks in, blocks out, a stream of named events, its own errors."""

from __future__ import annotations

from typing import Any

import msgspec

from pilothouse.serve.gateway.dialect import Place
from pilothouse.serve.gateway.dialects._events import identity, named
from pilothouse.serve.gateway.dialects._messages_blocks import Blocks, Event
from pilothouse.serve.gateway.dialects._messages_request import to_chat
from pilothouse.serve.gateway.dialects._pieces import figure, first, pieces
from pilothouse.serve.gateway.dialects._texts import chat_texts
from pilothouse.serve.gateway.errors import ApiError

_STOPS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}
"""Why it ended, in this form's words; anything else is the end of the turn."""
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Answer:
    """One message while it grows, from chunks or from a whole answer."""

    def __init__(self, asked: dict[str, Any], request_id: str) -> None:
        self._asked, self._id = asked, identity(request_id)
        self._blocks = Blocks(self._id)
        self._finish, self._stopped_by = "", ""
        self._usage: dict[str, Any] = {}
        self.decision: dict[str, Any] = {}

    def take(self, answer: dict[str, Any]) -> list[Event]:
        """A chunk, or the whole answer: what it adds."""
        self._usage = answer.get("usage") or self._usage
        self.decision = answer.get("pilothouse") or self.decision
        choice = first(answer)
        if choice is None:
            return []
        self._finish = choice.get("finish_reason") or self._finish
        reason = choice.get("stop_reason")  # vLLM names the stop sequence it met
        if isinstance(reason, str) and reason in (self._asked.get("stop_sequences") or ()):
            self._stopped_by = reason
        return [event for piece in pieces(choice) for event in self._blocks.add(piece)]

    def close(self) -> list[Event]:
        """The end of every block."""
        return self._blocks.close()

    def stop(self) -> dict[str, Any]:
        """Why it ended. An engine that was made to call a tool may say no more than that it stopped."""
        reason = _STOPS.get(self._finish, "tool_use" if self._blocks.called else "end_turn")
        if self._stopped_by and reason == "end_turn":
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": self._stopped_by if reason == "stop_sequence" else None}

    def usage(self) -> dict[str, int]:
        """Tokens. Here those read from the cache are not counted among the input."""
        cached = figure(self._usage, "prompt_tokens_details", "cached_tokens")
        return {
            "input_tokens": max(figure(self._usage, "prompt_tokens") - cached, 0),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": figure(self._usage, "completion_tokens"),
        }

    def message(self, content: list[dict[str, Any]], stop: dict[str, Any]) -> dict[str, Any]:
        """The message object."""
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "model": self._asked["model"],
            "content": content,
            **stop,
            "usage": self.usage(),
        }

    def whole(self) -> dict[str, Any]:
        """The message once closed."""
        message = self.message(self._blocks.all, self.stop())
        return message | ({"pilothouse": self.decision} if self.decision else {})


class MessageStream:
    """Named events. Figures come with the last: an engine counts when it is done."""

    def __init__(self, asked: dict[str, Any], request_id: str) -> None:
        self._answer = Answer(asked, request_id)
        self._began = False
        self._request_id = request_id

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """What a chunk adds; before the first, that the message exists."""
        events = self._answer.take(chunk)
        return self._begin() + b"".join(map(named, events))

    def end(self) -> bytes:
        """The last block ends, then the message with its reason and figures."""
        events = self._answer.close()
        delta: Event = {"type": "message_delta", "delta": self._answer.stop(), "usage": self._answer.usage()}
        if self._answer.decision:
            delta["pilothouse"] = self._answer.decision
        return self._begin() + b"".join(map(named, [*events, delta, {"type": "message_stop"}]))

    def fail(self, code: str, message: str) -> bytes:
        """An error event."""
        error = {"type": "api_error", "message": f"{code}: {message}"}
        return named({"type": "error", "error": error, "request_id": self._request_id})

    def _begin(self) -> bytes:
        if self._began:
            return b""
        self._began = True
        message = self._answer.message([], {"stop_reason": None, "stop_sequence": None})
        return named({"type": "message_start", "message": message}) + named({"type": "ping"})


class Messages:
    """The dialect."""

    path = "/v1/messages"
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
        """The message object."""
        grown = Answer(asked, request_id)
        grown.take(answer)
        grown.close()
        return grown.whole()

    def stream(self, asked: dict[str, Any], request_id: str) -> MessageStream:
        """Named events."""
        return MessageStream(asked, request_id)

    def error(self, error: ApiError, request_id: str) -> bytes:
        """Anthropic's error object."""
        kind = _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told = {"type": kind, "message": error.message}
        return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})


def create() -> Messages:
    """The member."""
    return Messages()
