"""What a form of the API must be. Inside the gateway every answer has OpenAI's chat form; guard, records and figures
know only that one. A dialect stands between it and the caller, and (old completions, embeddings) between it and the
engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pilothouse.serve.gateway.errors import ApiError

Place = tuple[dict[str, Any] | list[Any], Any]
"""A text in a request: the object or list that holds it, and its key or index there."""


class Stream(Protocol):
    """One streamed answer on its way out: chat chunks in (after the guard), the dialect's bytes out."""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """A `chat.completion.chunk`, the last one with finish_reason, maybe one with only `usage` after it. Bytes of
        whole events, b'' when it says nothing in this dialect."""

    def end(self) -> bytes:
        """The answer is whole: what closes a stream in this dialect (a `[DONE]`, a `message_stop`)."""

    def fail(self, code: str, message: str) -> bytes:
        """The answer breaks off: an error event; the connection is cut behind it."""


class Dialect(Protocol):
    """One form of the API."""

    @property
    def path(self) -> str:
        """Where callers ask: /v1/messages."""

    @property
    def engine_path(self) -> str:
        """Where the engine is asked: /v1/chat/completions."""

    @property
    def answers_text(self) -> bool:
        """Whether its answers hold words for the output guard (embeddings do not: they pass it by, whole)."""

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The engine's body for a caller's (model as asked, stream as asked). Checks its shape: ApiError(400) names
        the field that is wrong, or that cannot be asked of any engine here. Nothing is dropped in silence."""

    def texts(self, body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
        """Every text of the engine's body that the input guard must read, and kinds of parts that are no text."""

    def lift(self, answer: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """The engine's answer or chunk in chat form (where it has it already: the same object)."""

    def whole(self, answer: dict[str, Any], asked: dict[str, Any], request_id: str) -> dict[str, Any]:
        """A whole chat answer in this form; ApiError where a refusal cannot be said in it (embeddings)."""

    def stream(self, asked: dict[str, Any], request_id: str) -> Stream:
        """A streamed answer in this form."""

    def error(self, error: ApiError, request_id: str) -> bytes:
        """An error's body in this form."""
