"""What does a chat answer say? From the raw log of an exchange to text, tokens, usage, errors and timing.

Reads OpenAI's chat protocol, streamed or whole, and what engines make of it: reasoning deltas, tool-call deltas, usage
in a chunk of its own, errors inside a stream, a stream asked for and a plain answer given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pilothouse.core.redact import mask
from pilothouse.core.sse import SseParser
from pilothouse.core.timing import Chunk, Timing, count
from pilothouse.core.wire import Raw


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the answer, its log-probability (nats) and its likeliest rivals (token, logprob), best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `error` is '' when fine; else a clear line, and `fault` a word for its kind ('http 500', 'timeout').

    What came before a failure is kept in `text`. `message` is the assistant's message as a plain dict. `decision` is
    our gateway's `pilothouse` object: which guard blocked (guard, category, decision_id); empty when none did.
    """

    text: str
    status: int
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    timing: Timing | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    decision: dict[str, Any] = field(default_factory=dict)


class _Bad(Exception):
    """The answer cannot be used: fault and error."""

    def __init__(self, fault: str, error: str) -> None:
        super().__init__(error)
        self.fault, self.error = fault, error


@dataclass
class _Draft:
    """What has been read of an answer so far."""

    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": ""})
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    tokens: list[TokenLogprob] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    ended: bool = False
    decision: dict[str, Any] = field(default_factory=dict)


def completion(raw: Raw, *, secret: str = "", open_loop: bool = False) -> Completion:
    """The answer that a raw log holds. `secret` (the endpoint's key) is taken out of every error text."""
    draft = _Draft()
    fault, error = raw.fault, raw.error
    try:
        if raw.status >= 300:
            raise _Bad(f"http {raw.status}", _http_error(raw))
        if not raw.fault or raw.events:
            if _is_stream(raw):
                _read_stream(raw.pieces(), draft)
                if not draft.ended and not fault:
                    raise _Bad("truncated", "the stream ended without finish_reason and without [DONE]")
            elif not fault:
                _read_whole(raw.body, draft)
    except _Bad as bad:
        # A transport failure explains a broken body, not the other way round; an error event explains both.
        if not fault or bad.fault == "stream":
            fault, error = bad.fault, bad.error
    for call in _list(draft.message.get("tool_calls")):
        call.pop("index", None)  # a stream's numbering; a message sent back to a server has none
    events, counting = count(draft.chunks, _int(draft.usage, "completion_tokens"), stopped=draft.finish == "stop")
    return Completion(
        text=draft.message["content"],
        status=raw.status,
        error=clean(error, secret),
        finish_reason=draft.finish,
        prompt_tokens=_int(draft.usage, "prompt_tokens"),
        completion_tokens=_int(draft.usage, "completion_tokens"),
        tokens=tuple(draft.tokens),
        timing=Timing(raw.t_sched, raw.t_send, raw.t_close, events, open_loop, counting),
        headers=raw.headers,
        message=draft.message,
        fault=fault,
        decision=draft.decision,
    )


def clean(error: str, secret: str = "") -> str:
    """One line, at most 300 characters, without the key and whatever else looks like a secret."""
    if secret:
        error = error.replace(secret, "***")
    text = " ".join(mask(error).split())
    return text if len(text) <= 300 else text[:299] + "…"


def _is_stream(raw: Raw) -> bool:
    kind = raw.headers.get("content-type", "")
    return "event-stream" in kind or (not kind and raw.body.lstrip().startswith(b"data:"))


def _read_stream(pieces: Iterable[tuple[float, bytes]], draft: _Draft) -> None:
    parser = SseParser()
    for t, piece in pieces:
        for event in parser.feed(piece):
            if event.data.strip() == b"[DONE]":
                draft.ended = True
                continue
            data = _object(event.data, "a stream event")
            if "error" in data or event.type == "error":
                raise _Bad("stream", f"the server broke off the stream: {_reason(data)}")
            _read_chunk(t, data, draft)


def _read_chunk(t: float, data: dict[str, Any], draft: _Draft) -> None:
    if isinstance(data.get("usage"), dict):
        draft.usage = data["usage"]
    draft.decision = _dict(data.get("pilothouse")) or draft.decision
    for choice in _list(data.get("choices")):
        delta = _dict(choice.get("delta"))
        listed = _logprobs(choice)
        chars = _chars(delta)
        if chars:
            draft.chunks.append(Chunk(t, chars, len(listed) or None))
        if choice.get("index", 0) == 0:
            draft.tokens += listed
            _merge(delta, draft.message)
            draft.finish = choice.get("finish_reason") or draft.finish
        if choice.get("finish_reason"):
            draft.ended = True


def _chars(delta: dict[str, Any]) -> int:
    """Characters of generated content in a delta; 0 for role-only and empty chunks."""
    n = sum(len(delta[k]) for k in ("content", "reasoning_content", "reasoning", "refusal") if _text(delta.get(k)))
    for call in _list(delta.get("tool_calls")):
        function = _dict(call.get("function"))
        n += sum(len(function[k]) for k in ("name", "arguments") if _text(function.get(k)))
    return n


def _merge(delta: dict[str, Any], message: dict[str, Any]) -> None:
    for key in ("content", "reasoning_content", "reasoning", "refusal"):
        if _text(delta.get(key)):
            message[key] = message.get(key, "") + delta[key]
    for call in _list(delta.get("tool_calls")):
        calls = message.setdefault("tool_calls", [])
        index = call.get("index", len(calls))
        known = next((c for c in calls if c.get("index") == index), None)
        if known is None:
            calls.append({**call, "index": index, "function": dict(_dict(call.get("function")))})
            continue
        function = _dict(call.get("function"))
        for key in ("name", "arguments"):
            if _text(function.get(key)):
                known["function"][key] = (known["function"].get(key) or "") + function[key]


def _read_whole(body: bytes, draft: _Draft) -> None:
    data = _object(body, "the answer")
    choices = _list(data.get("choices"))
    if not choices:
        if "error" in data:
            raise _Bad("stream", f"the server answered with an error: {_reason(data)}")
        raise _Bad("malformed", f"the answer has no choices: {_excerpt(body)}")
    message = _dict(choices[0].get("message"))
    draft.message = {**message, "content": message["content"] if _text(message.get("content")) else ""}
    draft.finish = choices[0].get("finish_reason") or ""
    draft.usage = _dict(data.get("usage"))
    draft.decision = _dict(data.get("pilothouse"))
    draft.tokens = _logprobs(choices[0])
    draft.ended = True


def _logprobs(choice: dict[str, Any]) -> list[TokenLogprob]:
    found = []
    for item in _list(_dict(choice.get("logprobs")).get("content")):
        top = tuple(
            (str(rival.get("token", "")), float(rival["logprob"]))
            for rival in _list(item.get("top_logprobs"))
            if isinstance(rival.get("logprob"), (int, float))
        )
        value = item.get("logprob")
        if isinstance(value, (int, float)):
            found.append(TokenLogprob(str(item.get("token", "")), float(value), top, _int(item, "id")))
    return found


def _http_error(raw: Raw) -> str:
    body = raw.body
    try:
        reason = _reason(_object(body, ""))
    except _Bad:
        reason = _excerpt(body)
    if 300 <= raw.status < 400:
        reason = f"a redirect to {raw.headers.get('location', 'nowhere')}, which is not followed"
    return f"HTTP {raw.status}: {reason}" if reason else f"HTTP {raw.status}"


def _reason(data: dict[str, Any]) -> str:
    error = data.get("error", data)
    if isinstance(error, dict):
        for key in ("message", "detail", "error", "type", "code"):
            if error.get(key):
                return str(error[key])
        return msgspec.json.encode(error).decode()
    return str(error)


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _Bad("malformed", f"{what} is not JSON: {_excerpt(data)}") from None
    if not isinstance(value, dict):
        raise _Bad("malformed", f"{what} is not a JSON object: {_excerpt(data)}")
    return value


def _excerpt(data: bytes) -> str:
    text = data[:200].decode("utf-8", "replace")
    return repr(text) if text else "empty"


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _int(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
