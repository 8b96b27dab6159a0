"""The engine's answer as it is: bytes handed on unread where nobody has to read them, with a look at what we count.

A stream is handed on event by event, so that an event is never cut off between two writes of ours; its bytes stay the
engine's. Opened are only the first events (until a token is seen), those with usage, and all where texts are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

import msgspec

from pilothouse.serve.gateway.call import Call
from pilothouse.serve.gateway.dialects._events import DONE, broken
from pilothouse.serve.gateway.http import OVERHEAD_HEADER, Reply
from pilothouse.serve.gateway.upstream import Upstream, UpstreamFault

_DONE = (DONE, b"data:[DONE]\n\n")
KEPT = 16_384
"""Pieces of an answer whose text is kept."""
EVENT_LIMIT = 4 << 20


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []


T = TypeVar("T")
Renamed = tuple[re.Pattern[bytes], bytes]
"""What stands in the engine's JSON for its own name of the model, and what is to stand there."""
_whole = msgspec.json.Decoder(_Whole).decode
_any = msgspec.json.Decoder(dict[str, Any]).decode


class RelayedAnswer:
    """A whole answer, handed on. renamed: the engine's model name and the public one, where they differ."""

    begun = False

    def __init__(self, reply: Reply, call: Call, renamed: Renamed | None) -> None:
        self._reply, self._call, self._renamed = reply, call, renamed
        self.status, self.parts = 0, list[bytes]()
        self.kind = "application/json"

    def on_head(self, status: int, headers: dict[str, str], _: Upstream) -> None:
        """The engine's status."""
        self.status, self.parts = status, []
        self.kind = headers.get("content-type", "application/json")

    def on_body(self, data: bytes) -> None:
        """A piece. No TTFT is noted: a caller who gets the answer whole has no first token."""
        self.parts.append(data)
        self._call.head = monotonic()

    def finish(self) -> None:
        """All is there."""
        body, call = b"".join(self.parts), self._call
        if self.status == 200:
            seen = _decoded(_whole, body)
            if seen.usage is not None:
                call.usage(seen.usage.prompt_tokens, seen.usage.completion_tokens)
            if seen.choices:
                call.finish = seen.choices[0].finish_reason or ""
            if call.keeps_text:
                call.answer += texts(decode(body), "message")
            if self._renamed is not None:
                new = self._renamed[1]
                body = self._renamed[0].sub(lambda _: new, body, 1)
        self._reply.send(self.status, body, self.kind, **{OVERHEAD_HEADER: call.overhead()})


class RelayedStream:
    """A stream, handed on."""

    def __init__(self, reply: Reply, call: Call, renamed: Renamed | None) -> None:
        self._reply, self._call, self._renamed = reply, call, renamed
        self.begun, self.status, self.parts = False, 0, list[bytes]()
        self.kind = "application/json"
        self._rest, self._ended, self._crlf = b"", False, False
        self._said = False
        self._upstream: Upstream | None = None
        self._wants_usage = bool((call.asked.get("stream_options") or {}).get("include_usage"))

    def on_head(self, status: int, headers: dict[str, str], upstream: Upstream) -> None:
        """Nothing goes out before there is something to say: until then another engine can still be asked."""
        self.status, self._upstream, self.parts, self._rest = status, upstream, [], b""
        self.kind = headers.get("content-type", "application/json")

    def on_body(self, data: bytes) -> None:
        """Bytes of events."""
        if self.status != 200:
            self.parts.append(data)
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            data = self._to_last_event(data)
            if not data:
                return
        call = self._call
        if not self.begun:
            call.head = monotonic()
        if call.first is None or call.keeps_text or self._crlf or (b'"usage"' in data and _tells_usage(data)):
            data = self._read(data)
        call.pieces += data.count(b"\n\n")
        if data.endswith(_DONE):
            self._ended = True
        if self._renamed is not None:
            new = self._renamed[1]
            data = self._renamed[0].sub(lambda _: new, data)
        if not data:
            return
        if not self.begun:
            self.begun = True
            self._reply.begin(200, **{OVERHEAD_HEADER: call.overhead()})
        self._reply.write(data)
        call.last = monotonic()
        if self._reply.congested and self._upstream is not None:
            hold(self._reply, self._upstream)

    def finish(self) -> None:
        """The engine has ended its answer."""
        if self.status != 200:
            self._reply.send(self.status, b"".join(self.parts), self.kind, **{OVERHEAD_HEADER: self._call.overhead()})
            return
        if self._rest:
            raise UpstreamFault("the engine ended inside an event")
        if not self._said:  # comments are no answer
            raise UpstreamFault("the engine ended its answer without an event")
        if not self._ended:
            self._reply.write(DONE)
        self._reply.end()

    def fail(self, code: str, message: str) -> None:
        """The engine broke off: say so inside the stream, and do not end it as if it were whole."""
        self._reply.write(broken(code, message))
        self._reply.end()
        self._reply.cut()

    def _to_last_event(self, data: bytes) -> bytes:
        """What ends with a whole event; the rest waits for its end."""
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = data.rfind(b"\r\n\r\n") + 4
            cut = 0 if cut == 3 else cut
            self._crlf |= cut > 0
        self._rest = data[cut:]
        if len(self._rest) > EVENT_LIMIT:
            raise UpstreamFault("the engine sends an event without an end")
        return data[:cut]

    def _read(self, data: bytes) -> bytes:
        """Look into the events; a usage chunk that was not asked for is taken out."""
        call, kept = self._call, list[bytes]()
        for event in data.replace(b"\r\n", b"\n").split(b"\n\n"):
            at = event.find(b"data:")
            payload = event[at + 5 :].strip() if at >= 0 else b""
            if payload == b"null":  # llama.cpp begins the streamed completions of several prompts so
                continue
            if not payload.startswith(b"{"):
                kept.append(event)
                continue
            chunk = decode(payload)
            self._said = True
            look(call, chunk)
            if call.counted(chunk) and not self._wants_usage:
                if not chunk.get("choices"):
                    continue
                del chunk["usage"]
                event = b"data: " + msgspec.json.encode(chunk)
            kept.append(event)
        return b"\n\n".join(kept)


def _tells_usage(data: bytes) -> bool:
    """Is it more than the `null` that some engines put into every chunk?"""
    return b'"usage":{' in data or b'"usage": {' in data


def decode(data: bytes) -> dict[str, Any]:
    """An object that an engine said, from JSON; UpstreamFault when it is none."""
    return _decoded(_any, data)


def _decoded(how: Callable[[bytes], T], data: bytes) -> T:
    try:
        return how(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UpstreamFault(f"the engine's answer is not valid JSON ({e})") from None


def hold(reply: Reply, upstream: Upstream) -> None:
    """The client reads more slowly than the engine writes: the engine waits until it has caught up."""
    upstream.pause(True)
    reply.when_writable(lambda: upstream.pause(False))


def look(call: Call, chunk: dict[str, Any]) -> None:
    """Note time and text of what a chunk says. One that only names the role brings no token (DESIGN 5)."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") or {}
        if call.first is None and (choice.get("text") or any(v for name, v in delta.items() if name != "role")):
            call.first = monotonic()
        if isinstance(choice.get("finish_reason"), str):
            call.finish = choice["finish_reason"]
        if call.keeps_text and len(call.answer) < KEPT:
            text = delta.get("content") or choice.get("text")
            call.answer.append(text if isinstance(text, str) else "")


def texts(answer: dict[str, Any], where: str) -> list[str]:
    """The texts of an answer's choices."""
    found = [(c.get(where) or {}).get("content") or c.get("text") for c in answer.get("choices") or []]
    return [text if isinstance(text, str) else "" for text in found]
