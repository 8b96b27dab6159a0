"""`/v1/completions`, the older form: a prompt continued as it stands. The engine is asked in the same form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from pilothouse.serve.gateway.dialect import Place
from pilothouse.serve.gateway.dialects._events import DONE, broken, event, identity
from pilothouse.serve.gateway.dialects._logprobs import to_chat, to_legacy
from pilothouse.serve.gateway.dialects._shape import (
    Alternatives,
    Sampling,
    convert,
    needs,
    needs_schema,
    unsupported,
)
from pilothouse.serve.gateway.dialects._tokens import PROMPT_SCHEMA, kind_of
from pilothouse.serve.gateway.errors import ApiError


class CompletionRequest(Sampling, kw_only=True):
    """A prompt to continue."""

    prompt: Annotated[Any, Meta(extra_json_schema=PROMPT_SCHEMA)]
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int | None, Meta(extra_json_schema={"enum": [1, None]})] = None
    logprobs: Alternatives | None = None


RULES = {"CompletionRequest": [needs_schema("stream_options", "stream")]}

_FINISHES: dict[str, Literal["stop", "length", "content_filter"]] = {
    "length": "length",
    "content_filter": "content_filter",
}
"""Why it ended, in this form's words; anything else is a stop."""


class CompletionStream:
    """Deltas as texts; counts the characters of each choice for the offsets of its tokens."""

    def __init__(self, asked: dict[str, Any], request_id: str) -> None:
        self._asked, self._id = asked, request_id
        self._wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._offsets: dict[int, int] = {}

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """One chunk; one that only names the role says nothing here."""
        choices = [c for choice in chunk.get("choices") or [] if (c := self._choice(choice)) is not None]
        wants_usage = self._wants_usage and chunk.get("usage")
        if not choices and not wants_usage and "pilothouse" not in chunk:
            return b""
        answer = _envelope(chunk, self._asked, self._id, choices)
        if not self._wants_usage:
            answer.pop("usage", None)
        return event(answer)

    def end(self) -> bytes:
        """The mark that all is there."""
        return DONE

    def fail(self, code: str, message: str) -> bytes:
        """An error event."""
        return broken(code, message)

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        index, finish = int(choice.get("index") or 0), choice.get("finish_reason")
        text = _text(choice.get("delta"))
        logprobs, self._offsets[index] = to_legacy(choice.get("logprobs"), self._offsets.get(index, 0))
        if not text and finish is None and not (logprobs and logprobs["tokens"]):
            return None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": _finish(finish)}


class Completions:
    """The dialect."""

    path = "/v1/completions"
    engine_path = "/v1/completions"
    answers_text = True

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same object once its shape is checked."""
        request = convert(asked, CompletionRequest)
        kind_of(request.prompt, "prompt")
        if request.best_of not in (None, 1):
            raise unsupported("best_of", "answers are not drawn and thrown away here; ask for n answers and choose")
        needs(asked, "stream_options", "stream")
        return asked

    def texts(self, body: dict[str, Any]) -> tuple[list[Place], tuple[str, ...]]:
        """The prompts and the suffix; a prompt of token ids cannot be read."""
        places, unread = prompt_texts(body, "prompt")
        if isinstance(body.get("suffix"), str):
            places.append((body, "suffix"))
        return places, unread

    def lift(self, answer: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """Texts become messages or deltas."""
        where = "delta" if streamed else "message"
        choices = []
        for choice in answer.get("choices") or []:
            holder = {"content": choice.get("text") or ""}
            if not streamed:
                holder["role"] = "assistant"
            lifted = {"index": choice.get("index") or 0, where: holder, "finish_reason": choice.get("finish_reason")}
            logprobs = to_chat(choice.get("logprobs"))
            choices.append(lifted | ({"logprobs": logprobs} if logprobs is not None else {}))
        kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {**answer, "object": kind, "choices": choices}

    def whole(self, answer: dict[str, Any], asked: dict[str, Any], request_id: str) -> dict[str, Any]:
        """Messages become texts."""
        choices = [
            {
                "index": choice.get("index") or 0,
                "text": _text(choice.get("message")),
                "logprobs": to_legacy(choice.get("logprobs"), 0)[0],
                "finish_reason": _finish(choice.get("finish_reason") or "stop"),
            }
            for choice in answer.get("choices") or []
        ]
        return _envelope(answer, asked, request_id, choices)

    def stream(self, asked: dict[str, Any], request_id: str) -> CompletionStream:
        """Deltas become texts."""
        return CompletionStream(asked, request_id)

    def error(self, error: ApiError, request_id: str) -> bytes:
        """OpenAI's error object."""
        return error.encoded()


def prompt_texts(body: dict[str, Any], field: str) -> tuple[list[Place], tuple[str, ...]]:
    """The texts of a prompt-like field, or that it holds tokens."""
    prompt = body[field]
    if kind_of(prompt, field) == "tokens":
        return [], ("tokens",)
    if isinstance(prompt, str):
        return [(body, field)], ()
    return [(prompt, i) for i in range(len(prompt))], ()


def _envelope(
    answer: dict[str, Any], asked: dict[str, Any], request_id: str, choices: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        **answer,
        "id": f"cmpl-{identity(request_id)}",
        "object": "text_completion",
        "model": asked["model"],
        "choices": choices,
    }


def _text(holder: Any) -> str:
    content = holder.get("content") if isinstance(holder, dict) else None
    return content if isinstance(content, str) else ""


def _finish(reason: str | None) -> str | None:
    return None if reason is None else _FINISHES.get(reason, "stop")


def create() -> Completions:
    """The member."""
    return Completions()
