"""An answer under guard: every text of it goes through a stream of its own before the client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilothouse.core.records import Finding

if TYPE_CHECKING:
    from pilothouse.guard.policy import OutputStream, Policy


class GuardedAnswer:
    """Applies the policy to a chat answer, whole or in chunks, in place. `blocked` once a rule ended it.

    Each choice's content, reasoning and each tool call's arguments are streams of their own.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._streams: dict[tuple[int, str, int], OutputStream] = {}
        self.blocked: Finding | None = None
        self.changed = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was seen so far, in every text."""
        return tuple(f for s in self._streams.values() for f in s.findings)

    @property
    def unscanned(self) -> tuple[str, ...]:
        """Detectors that failed on any text."""
        return tuple(sorted({d for s in self._streams.values() for d in s.unscanned}))

    def whole(self, answer: dict[str, Any]) -> None:
        """Guard a whole answer; a blocked choice gets the refusal."""
        for choice in answer.get("choices") or []:
            message = choice.get("message") or {}
            self._texts(choice, message, last=True)
            if self.blocked is not None:
                self.refuse(choice, message)
            if self.changed:
                choice.pop("logprobs", None)  # they spell out the text before redaction

    def chunk(self, chunk: dict[str, Any]) -> bool:
        """Guard one streamed chunk; False when nothing of it is left to send now."""
        choices = chunk.get("choices") or []
        send = not choices
        for choice in choices:
            delta = choice.setdefault("delta", {})
            before = (delta.get("content"), delta.get("reasoning_content"))
            last = choice.get("finish_reason") is not None
            self._texts(choice, delta, last=last)
            if self.blocked is not None:
                self.refuse(choice, delta)
                return True
            if (delta.get("content"), delta.get("reasoning_content")) != before:
                choice.pop("logprobs", None)
            send |= last or any(value not in ("", None, []) for value in delta.values())
        return send

    def rest(self) -> dict[tuple[int, str, int], str]:
        """What is still held when a stream ends without saying so, by (choice, field, tool call)."""
        held = {}
        for key, stream in self._streams.items():
            emission = stream.finish()
            if emission.blocked is not None:
                self.blocked = emission.blocked
            elif emission.text:
                held[key] = emission.text
        return held

    def refuse(self, choice: dict[str, Any], message: dict[str, Any]) -> None:
        """Put the refusal in the place of what is left of a choice."""
        choice["finish_reason"] = "content_filter"
        choice.pop("logprobs", None)
        message.pop("tool_calls", None)
        message.pop("reasoning_content", None)
        message["content"] = self._policy.refusal

    def _texts(self, choice: dict[str, Any], holder: dict[str, Any], *, last: bool) -> None:
        index = int(choice.get("index") or 0)
        for field in ("content", "reasoning_content"):
            if isinstance(holder.get(field), str):
                holder[field] = self._pass((index, field, 0), holder[field])
        for place, call in enumerate(holder.get("tool_calls") or []):
            function = call.get("function") or {}
            if isinstance(function.get("arguments"), str):
                key = (index, "arguments", int(call.get("index", place)))
                function["arguments"] = self._pass(key, function["arguments"])
        if last:
            self._flush(index, holder)

    def _flush(self, index: int, holder: dict[str, Any]) -> None:
        """The end of a choice: what was held comes with its last chunk."""
        for (choice, field, call), stream in self._streams.items():
            if choice != index or self.blocked is not None:
                continue
            emission = stream.finish()
            self.blocked = self.blocked or emission.blocked
            if not emission.text:
                continue
            if field == "arguments":
                calls = holder.setdefault("tool_calls", [])
                known = next((c for place, c in enumerate(calls) if int(c.get("index", place)) == call), None)
                if known is None:
                    known = {"index": call, "function": {"arguments": ""}}
                    calls.append(known)
                known["function"]["arguments"] += emission.text
            else:
                holder[field] = (holder.get(field) or "") + emission.text

    def _pass(self, key: tuple[int, str, int], text: str) -> str:
        if self.blocked is not None:
            return ""
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = self._policy.output()
        emission = stream.feed(text)
        if emission.blocked is not None:
            self.blocked = emission.blocked
        if emission.text != text:
            self.changed = True
        return emission.text
