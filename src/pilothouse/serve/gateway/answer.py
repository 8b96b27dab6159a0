"""The engine's answer on its way to the client: whole, or chunk by chunk in the read callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core.sse import SseParser
from pilothouse.serve.gateway.chat import Ledger, decision
from pilothouse.serve.gateway.guarded import GuardedAnswer
from pilothouse.serve.gateway.http import Reply
from pilothouse.serve.gateway.upstream import Upstream, UpstreamFault

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy

GUARD_HEADER = "x_pilothouse_guard"  # underscores become dashes on the wire
_DONE = b"data: [DONE]\n\n"
_KEPT = 16_384
"""Chunks of an answer whose text is kept."""


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % msgspec.json.encode(data)


class WholeAnswer:
    """Collects an answer, guards it, sends it."""

    def __init__(self, reply: Reply, ledger: Ledger, policy: Policy | None) -> None:
        self._reply, self._ledger, self._policy = reply, ledger, policy
        self._status, self._parts = 0, list[bytes]()

    def on_head(self, status: int, _: dict[str, str], __: Upstream) -> None:
        """The engine's status."""
        self._status = status

    def on_body(self, data: bytes) -> None:
        """A piece. No TTFT is noted: a caller who gets the answer whole has no first token."""
        self._parts.append(data)

    def finish(self) -> None:
        """All is there."""
        body, ledger = b"".join(self._parts), self._ledger
        if self._status != 200:
            self._reply.send(self._status, body)
            return
        try:
            answer = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as e:
            raise UpstreamFault(f"the engine's answer is not valid JSON ({e})") from None
        answer["model"] = ledger.request["model"]
        headers: dict[str, str] = {}
        ledger.usage = answer.get("usage") or {}
        if self._policy is not None:
            guarded = GuardedAnswer(self._policy)
            guarded.whole(answer)
            ledger.note_output(guarded.findings, guarded.unscanned, blocked=guarded.blocked is not None)
            if guarded.blocked is not None:
                answer["pilothouse"] = decision(ledger.id, guarded.blocked, "")
                headers[GUARD_HEADER] = guarded.blocked.detector
        for choice in answer.get("choices") or []:
            ledger.answer.append((choice.get("message") or {}).get("content") or "")
        self._reply.send(200, msgspec.json.encode(answer), **headers)


class StreamedAnswer:
    """Hands chunks on as they come. Without a policy, only those with usage are opened."""

    def __init__(self, reply: Reply, ledger: Ledger, policy: Policy | None) -> None:
        self._reply, self._ledger = reply, ledger
        self._guarded = GuardedAnswer(policy) if policy is not None else None
        self._parser, self._status = SseParser(), 0
        self._upstream: Upstream | None = None
        self._error, self._ended, self._refused = list[bytes](), False, False
        self._wants_usage = bool((ledger.request.get("stream_options") or {}).get("include_usage"))
        self._last: dict[str, Any] = {}
        self._noted = False

    def on_head(self, status: int, _: dict[str, str], upstream: Upstream) -> None:
        """A good status begins the stream; any other is collected and sent whole."""
        self._status, self._upstream = status, upstream
        if status == 200:
            self._reply.begin(200)

    def on_body(self, data: bytes) -> None:
        """Bytes of events."""
        if self._status != 200:
            self._error.append(data)
            return
        out = [piece for e in self._parser.feed(data) if not self._refused and (piece := self._one(e.data))]
        if out:
            self._reply.write(b"".join(out))
        if self._refused:
            assert self._upstream is not None
            self._upstream.stop()
        elif self._reply.congested and self._upstream is not None:
            upstream = self._upstream
            upstream.pause(True)
            self._reply.when_writable(lambda: upstream.pause(False))

    def finish(self) -> None:
        """The engine has ended its answer."""
        if self._status != 200:
            self._reply.send(self._status, b"".join(self._error))
            return
        if not self._ended:
            self._reply.write(self._tail() + _DONE)
        self.note()
        self._reply.end()

    def fail(self, code: str, message: str) -> None:
        """The engine broke off: say so inside the stream, and do not end it as if it were whole."""
        self.note()
        self._reply.write(event({"error": {"message": message, "type": "server_error", "param": None, "code": code}}))
        self._reply.end()
        self._reply.cut()

    def _one(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            self._ended = True
            return self._tail() + _DONE
        ledger = self._ledger
        if self._guarded is None and b'"usage":{' not in data and b'"usage": {' not in data:
            if ledger.first is None or ledger.keeps_text:
                self._look(msgspec.json.decode(data))
            return b"data: %b\n\n" % data
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            return event(chunk)
        if chunk.get("usage"):
            self._ledger.usage = chunk["usage"]
            if not chunk.get("choices") and not self._wants_usage:
                return b""
        chunk["model"] = self._ledger.request["model"]
        if self._guarded is None:
            self._look(chunk)
            return event(chunk)
        self._last = chunk
        send = self._guarded.chunk(chunk)
        if self._guarded.blocked is not None:
            return self._block(chunk)
        if not send:
            return b""
        self._look(chunk)
        return event(chunk)

    def _tail(self) -> bytes:
        """What the guard still held although no chunk said that its choice was finished."""
        if self._guarded is None or not self._last:
            return b""
        chunk = {**self._last, "choices": self._guarded.rest()}
        chunk.pop("usage", None)
        if self._guarded.blocked is not None:
            return self._block(chunk).removesuffix(_DONE)
        if not chunk["choices"]:
            return b""
        self._look(chunk)
        return event(chunk)

    def _block(self, chunk: dict[str, Any]) -> bytes:
        """The last events of a stream that a rule ended."""
        assert self._guarded is not None
        self._refused = self._ended = True
        chunk["pilothouse"] = decision(self._ledger.id, self._guarded.blocked, "")
        chunk["choices"] = self._guarded.ending()
        self._look(chunk)
        return event(chunk) + _DONE

    def note(self) -> None:
        """Tell the ledger what the guard saw, once: at the end, or when the client leaves before it."""
        if self._guarded is not None and not self._noted:
            self._noted = True
            blocked = self._guarded.blocked is not None
            self._ledger.note_output(self._guarded.findings, self._guarded.unscanned, blocked=blocked)

    def _look(self, chunk: dict[str, Any]) -> None:
        """Time and text of what goes out. A chunk that only names the role brings no token (DESIGN 5)."""
        ledger = self._ledger
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            if ledger.first is None and any(value for name, value in delta.items() if name != "role"):
                ledger.token()
            if ledger.keeps_text and len(ledger.answer) < _KEPT:
                ledger.answer.append(delta.get("content") or "")
