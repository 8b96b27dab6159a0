"""`/v1/chat/completions`: the form the gateway itself thinks in, so requests are checked and answers pass."""

from __future__ import annotations

from typing import Any

from pilothouse.serve.gateway.dialect import Place
from pilothouse.serve.gateway.dialects._chat_shape import ChatRequest
from pilothouse.serve.gateway.dialects._events import DONE, broken, event
from pilothouse.serve.gateway.dialects._shape import convert, invalid, needs
from pilothouse.serve.gateway.dialects._texts import chat_texts
from pilothouse.serve.gateway.errors import ApiError


class ChatStream:
    """Chunks as they are, under the model's public name; figures only for those who asked."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._model = asked["model"]
        self._wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """One chunk."""
        told = {**chunk, "model": self._model}
        if not self._wants_usage and told.pop("usage", None) and not chunk.get("choices"):
            return b""
        return event(told)

    def end(self) -> bytes:
        """The mark that all is there."""
        return DONE

    def fail(self, code: str, message: str) -> bytes:
        """An error event."""
        return broken(code, message)


class Chat:
    """The dialect."""

    path = "/v1/chat/completions"
    engine_path = "/v1/chat/completions"
    answers_text = True

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same object once its shape is checked: on the hot path nothing is copied."""
        convert(asked, ChatRequest)
        needs(asked, "stream_options", "stream")
        needs(asked, "top_logprobs", "logprobs")
        for i, message in enumerate(asked["messages"]):
            content = message.get("content")
            if isinstance(content, list):
                _parts(content, i)
            elif content is None and message["role"] == "assistant" and not _calls(message):
                raise invalid(f"messages[{i}]", "an assistant message needs content or tool_calls")
        return asked

    def texts(self, body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
        """All that is said, called or put beside the messages."""
        return chat_texts(body)

    def lift(self, answer: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """It has the form already."""
        return answer

    def whole(self, answer: dict[str, Any], asked: dict[str, Any], request_id: str) -> dict[str, Any]:
        """The answer under the model's public name."""
        answer["model"] = asked["model"]
        return answer

    def stream(self, asked: dict[str, Any], request_id: str) -> ChatStream:
        """Chunks as they are."""
        return ChatStream(asked)

    def error(self, error: ApiError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error.encoded()


def _parts(content: list[dict[str, Any]], message: int) -> None:
    for j, part in enumerate(content):
        kind = part.get("type")
        if not isinstance(kind, str):
            raise invalid(f"messages[{message}].content[{j}].type", "expected `str`")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise invalid(f"messages[{message}].content[{j}].text", "expected `str`")


def _calls(message: dict[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def create() -> Chat:
    """The member."""
    return Chat()
