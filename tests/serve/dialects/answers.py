"""Chat answers to translate, and every way an engine might cut one into chunks."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from pilothouse.core.sse import SseParser
from pilothouse.serve.gateway.dialect import Dialect

Chunk = dict[str, Any]

ID = "req_0123456789abcdef0123"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}}
DECISION = {"guard": "secrets", "category": "secret", "decision_id": ID}

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_some = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_arguments = st.dictionaries(_texts, st.integers(-9, 9) | _texts, max_size=3)


def asked(**fields: Any) -> dict[str, Any]:
    """A request, as far as the way back looks at it."""
    return {"model": "desk", "stream": True, **fields}


def call(place: int, arguments: str) -> dict[str, Any]:
    """A whole call."""
    return {"id": f"call_{place}", "type": "function", "function": {"name": f"f{place}", "arguments": arguments}}


def answer(message: dict[str, Any], finish: str = "stop", **fields: Any) -> dict[str, Any]:
    """A whole chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "engine"}
    return {**head, "choices": [choice], "usage": USAGE, **fields}


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> Chunk:
    """One chunk of it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "engine"}
    return {**head, "choices": [choice], **fields}


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    """Thoughts, words, a refusal, calls: any of them, and why it ended."""
    message: dict[str, Any] = {}
    for field in ("reasoning_content", "content", "refusal"):
        if draw(st.booleans()):
            message[field] = draw(_some)
    calls = draw(st.lists(_arguments, max_size=3))
    if calls:
        message["tool_calls"] = [call(i, msgspec.json.encode(a).decode()) for i, a in enumerate(calls)]
    finish = draw(st.sampled_from(["length", "content_filter", "tool_calls" if calls else "stop"]))
    return answer(message, finish, **({"pilothouse": DECISION} if finish == "content_filter" else {}))


def _cut(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def chunked(draw: st.DrawFn, whole: dict[str, Any], *, mixed: bool) -> list[Chunk]:
    """The answer in chunks. mixed: pieces of different texts take turns, as they may behind a guard."""
    message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]
    lanes: list[list[dict[str, Any]]] = [
        [{field: piece} for piece in _cut(draw, message[field])]
        for field in ("reasoning_content", "content", "refusal")
        if message.get(field)
    ]
    for i, made in enumerate(message.get("tool_calls") or []):
        named = {**made, "index": i, "function": {**made["function"], "arguments": ""}}
        rest = [
            {"tool_calls": [{"index": i, "function": {"arguments": piece}}]}
            for piece in _cut(draw, made["function"]["arguments"])
        ]
        lanes.append([{"tool_calls": [named]}, *rest])
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    while lanes:
        lane = draw(st.sampled_from(lanes)) if mixed else lanes[0]
        deltas.append(lane.pop(0))
        lanes = [lane for lane in lanes if lane]
    chunks = [chunk(delta) for delta in deltas]
    last = chunks[-1] if draw(st.booleans()) else chunk({})
    if last is not chunks[-1]:
        chunks.append(last)
    last["choices"][0]["finish_reason"] = finish
    if "pilothouse" in whole:
        last["pilothouse"] = whole["pilothouse"]
    if draw(st.booleans()):
        last["usage"] = USAGE
    else:
        chunks.append({**chunk({}), "choices": [], "usage": USAGE})
    return chunks


def lift_all(dialect: Dialect, chunks: list[Chunk]) -> list[Chunk]:
    """Chunks as the gateway hands them on."""
    return [dialect.lift(c, streamed=True) for c in chunks]


def bytes_of(dialect: Dialect, chunks: list[Chunk], request: dict[str, Any]) -> bytes:
    """What the caller of a stream gets."""
    stream = dialect.stream(request, ID)
    return b"".join([stream.chunk(c) for c in chunks]) + stream.end()


def events(stream: bytes) -> list[dict[str, Any]]:
    """The events of it; a name must say what the data says."""
    found = []
    for e in SseParser().feed(stream):
        if e.data == b"[DONE]":
            continue
        data = msgspec.json.decode(e.data)
        assert e.type in ("message", data.get("type"))
        found.append(data)
    return found
