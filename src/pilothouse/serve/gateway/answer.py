"""The engine's answer where it has to be read: under guard, or for a caller who asked in another form than its own.

Every answer becomes OpenAI's chat form, passes the guard, and becomes the caller's form again.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core.records import Finding
from pilothouse.core.sse import SseParser
from pilothouse.serve.gateway.call import Call
from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.guarded import GuardedAnswer
from pilothouse.serve.gateway.http import OVERHEAD_HEADER, Reply
from pilothouse.serve.gateway.relay import EVENT_LIMIT, decode, hold, look, texts
from pilothouse.serve.gateway.upstream import Upstream, UpstreamFault

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy

GUARD_HEADER = "x-pilothouse-guard"


class WholeAnswer:
    """Collects an answer, guards it, sends it."""

    begun = False

    def __init__(self, reply: Reply, call: Call, policy: Policy | None, dialect: Dialect) -> None:
        self._reply, self._call, self._policy, self._dialect = reply, call, policy, dialect
        self.status, self.parts = 0, list[bytes]()

    def on_head(self, status: int, _: dict[str, str], __: Upstream) -> None:
        """The engine's status."""
        self.status, self.parts = status, []

    def on_body(self, data: bytes) -> None:
        """A piece. No TTFT is noted: a caller who gets the answer whole has no first token."""
        self.parts.append(data)
        self._call.head = monotonic()

    def finish(self) -> None:
        """All is there."""
        body, call = b"".join(self.parts), self._call
        if self.status != 200:
            error = engine_error(self._dialect, self.status, body, call.id)
            self._reply.send(self.status, error, **{OVERHEAD_HEADER: call.overhead()})
            return
        answer = self._dialect.lift(decode(body), streamed=False)
        call.counted(answer)
        headers: dict[str, str] = {}
        if self._policy is not None:
            guarded = GuardedAnswer(self._policy, stops(call))
            guarded.whole(answer)
            call.note_output(guarded.findings, guarded.unscanned, blocked=guarded.blocked is not None)
            if guarded.blocked is not None:
                answer["pilothouse"] = decision(call.id, guarded.blocked, "")
                headers[GUARD_HEADER] = guarded.blocked.detector
        choices = answer.get("choices") or [{}]
        finish = choices[0].get("finish_reason")
        call.finish = finish if isinstance(finish, str) else ""
        if call.keeps_text:
            call.answer += texts(answer, "message")
        out = msgspec.json.encode(self._dialect.whole(answer, call.asked, call.id))
        self._reply.send(200, out, **headers, **{OVERHEAD_HEADER: call.overhead()})


class StreamedAnswer:
    """Hands chunks on as they come, each guarded and in the caller's form."""

    def __init__(self, reply: Reply, call: Call, policy: Policy | None, dialect: Dialect) -> None:
        self._reply, self._call, self._dialect = reply, call, dialect
        self._policy, self._unended = policy, 0
        self._afresh()
        self.begun, self.status, self.parts = False, 0, list[bytes]()
        self._upstream: Upstream | None = None
        self._refused = self._noted = False

    def on_head(self, status: int, _: dict[str, str], upstream: Upstream) -> None:
        """Nothing goes out before there is something to say: until then another engine can still be asked."""
        self.status, self._upstream, self.parts = status, upstream, []
        if self._last:  # another engine said something before it failed, and all of it was held back
            self._afresh()

    def on_body(self, data: bytes) -> None:
        """Bytes of events."""
        if self.status != 200:
            self.parts.append(data)
            return
        if not self.begun:
            self._call.head = monotonic()
        events = self._parser.feed(data)
        self._unended = 0 if events else self._unended + len(data)
        if self._unended > EVENT_LIMIT:
            raise UpstreamFault("the engine sends an event without an end")
        out = b"".join([piece for e in events if not self._refused and (piece := self._one(e.data))])
        if out:
            if not self.begun:
                self.begun = True
                self._reply.begin(200, **{OVERHEAD_HEADER: self._call.overhead()})
            self._reply.write(out)
            self._call.last = monotonic()
        if self._refused:
            assert self._upstream is not None
            self._upstream.stop()
        elif self._reply.congested and self._upstream is not None:
            hold(self._reply, self._upstream)

    def finish(self) -> None:
        """The engine has ended its answer."""
        call = self._call
        if self.status != 200:
            error = engine_error(self._dialect, self.status, b"".join(self.parts), call.id)
            self._reply.send(self.status, error, **{OVERHEAD_HEADER: call.overhead()})
            return
        if self._parser.pending and not self._refused:
            raise UpstreamFault("the engine ended inside an event")
        if not self.begun and not self._last:
            raise UpstreamFault("the engine ended its answer without an event")
        if not self.begun:  # the guard has held all of it back until now
            self.begun = True
            self._reply.begin(200, **{OVERHEAD_HEADER: call.overhead()})
        if not self._ended:
            self._reply.write(self._tail() + self._out.end())
        self.note()
        self._reply.end()

    def fail(self, code: str, message: str) -> None:
        """The engine broke off: say so inside the stream, and do not end it as if it were whole."""
        self.note()
        self._reply.write(self._out.fail(code, message))
        self._reply.end()
        self._reply.cut()

    def note(self) -> None:
        """Tell the call what the guard saw, once: at the end, or when the client leaves before it."""
        if self._guarded is not None and not self._noted:
            self._noted = True
            blocked = self._guarded.blocked is not None
            self._call.note_output(self._guarded.findings, self._guarded.unscanned, blocked=blocked)

    def _afresh(self) -> None:
        call = self._call
        self._guarded = GuardedAnswer(self._policy, stops(call)) if self._policy is not None else None
        self._out = self._dialect.stream(call.asked, call.id)
        self._parser = SseParser()
        self._unended = 0
        self._ended, self._last = False, dict[str, Any]()

    def _one(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            self._ended = True
            return self._tail() + self._out.end()
        if data == b"null":  # llama.cpp begins the streamed completions of several prompts so
            return b""
        chunk = decode(data)
        if "error" in chunk:
            self._ended = True
            return self._out.fail("engine_failed", _message(chunk))
        chunk = self._dialect.lift(chunk, streamed=True)
        self._call.counted(chunk)
        self._last = chunk
        if self._guarded is not None:
            send = self._guarded.chunk(chunk)
            if self._guarded.blocked is not None:
                return self._block(chunk)
            if not send:
                return b""
        look(self._call, chunk)
        self._call.pieces += 1
        return self._out.chunk(chunk)

    def _tail(self) -> bytes:
        """What the guard still held although no chunk said that its choice was finished."""
        if self._guarded is None or not self._last:
            return b""
        chunk = {**self._last, "choices": self._guarded.rest()}
        chunk.pop("usage", None)
        if self._guarded.blocked is not None:
            return self._block(chunk, ends=False)
        if not chunk["choices"]:
            return b""
        look(self._call, chunk)
        return self._out.chunk(chunk)

    def _block(self, chunk: dict[str, Any], *, ends: bool = True) -> bytes:
        """The last events of a stream that a rule ended."""
        assert self._guarded is not None
        self._refused = self._ended = True
        chunk["pilothouse"] = decision(self._call.id, self._guarded.blocked, "")
        chunk["choices"] = self._guarded.ending()
        look(self._call, chunk)
        return self._out.chunk(chunk) + (self._out.end() if ends else b"")


def stops(call: Call) -> frozenset[str]:
    """The caller's own words that end an answer: an engine may name them."""
    said = call.body.get("stop")
    return frozenset([said] if isinstance(said, str) else said or ())


def decision(request_id: str, finding: Finding | None, detector: str) -> dict[str, Any]:
    """What a caller learns of a block: the guard's name, the category, the decision's id. Never the matched text."""
    category = finding.category if finding else ""
    return {"guard": finding.detector if finding else detector, "category": category, "decision_id": request_id}


def refusal(call: Call, text: str, finding: Finding | None, detector: str) -> dict[str, Any]:
    """A complete answer (or its only chunk) in chat form that says the refusal, with what blocked it."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, ("delta" if call.stream else "message"): message, "finish_reason": "content_filter"}
    return {
        "id": f"chatcmpl-{call.id}",
        "object": "chat.completion.chunk" if call.stream else "chat.completion",
        "created": int(call.at),
        "model": call.model,
        "choices": [choice],
        **({} if call.stream else {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
        "pilothouse": decision(call.id, finding, detector),
    }


def engine_error(dialect: Dialect, status: int, body: bytes, request_id: str) -> bytes:
    """An engine's own error in the caller's form: what is wrong with a request the engine knows best."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = {"error": {"message": body[:300].decode("utf-8", "replace")}}
    error = said.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return dialect.error(ApiError(status, str(code or "engine_error"), _message(said)), request_id)


def _message(said: dict[str, Any]) -> str:
    error = said.get("error")
    found = error.get("message") if isinstance(error, dict) else error
    return str(found or said.get("message") or said.get("detail") or "the engine gives no reason")
