"""An answer under guard: every text of it goes through a stream of its own before the client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilothouse.core.records import Finding

if TYPE_CHECKING:
    from pilothouse.guard.policy import OutputStream, Policy

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
# What is not understood cannot be guarded, so it does not pass: token ids and debug fields spell the text out again.
# (An answer's own further fields may stay when they are figures, as engines add timings.)
_MESSAGE = frozenset({*_TEXTS, "role", "tool_calls", "function_call"})
_CHOICE = frozenset({"index", "delta", "message", "finish_reason", "logprobs"})
_ANSWER = frozenset(
    {"id", "object", "created", "model", "system_fingerprint", "service_tier", "usage", "timings", "choices"}
)

Key = tuple[int, str, int]
"""Choice, field, tool call."""


class GuardedAnswer:
    """Applies the policy to a chat answer, whole or in chunks, in place. `blocked` once a rule ended it.

    stops: words of the caller's that may end an answer; an engine may say which of them did.
    """

    def __init__(self, policy: Policy, stops: frozenset[str] = frozenset()) -> None:
        self._policy, self._stops = policy, stops
        self._streams: dict[Key, OutputStream] = {}
        self._ended: set[int] = set()
        self._blocked_choice = 0
        self.blocked: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was seen so far, in every text."""
        return tuple(f for s in self._streams.values() for f in s.findings)

    @property
    def unscanned(self) -> tuple[str, ...]:
        """Detectors that failed on any text."""
        return tuple(sorted({d for s in self._streams.values() for d in s.unscanned}))

    def whole(self, answer: dict[str, Any]) -> None:
        """Guard a whole answer; when one choice is blocked, none is shown."""
        _only(answer, _ANSWER, figures=True)
        choices = answer.get("choices") or []
        for choice in choices:
            self._choice(choice, "message", last=True)
        if self.blocked is not None:
            for choice in choices:
                choice.pop("logprobs", None)
                choice["finish_reason"] = "content_filter"
                choice["message"] = {"role": "assistant", "content": self._policy.refusal}

    def chunk(self, chunk: dict[str, Any]) -> bool:
        """Guard one streamed chunk; False when nothing of it is left to send now. Nothing of it may be once blocked."""
        _only(chunk, _ANSWER, figures=True)
        choices = chunk.get("choices") or []
        send = not choices
        for choice in choices:
            last = choice.get("finish_reason") is not None
            self._choice(choice, "delta", last=last)
            send |= last or any(value not in ("", None, []) for value in choice["delta"].values())
        return send and self.blocked is None

    def rest(self) -> list[dict[str, Any]]:
        """Choices with what is still held when a stream ends without saying so; none once blocked."""
        held = [(i, delta) for i in sorted({i for i, _, _ in self._streams}) if (delta := self._flush(i, {}))]
        return [] if self.blocked else [{"index": i, "delta": delta, "finish_reason": None} for i, delta in held]

    def ending(self) -> list[dict[str, Any]]:
        """The last choices of a blocked stream: the refusal, and an end for every other choice that is still open."""
        open_ = {i for i, _, _ in self._streams} - self._ended - {self._blocked_choice}
        refusal = {"index": self._blocked_choice, "delta": {"content": self._policy.refusal}}
        others = [{"index": i, "delta": dict[str, Any]()} for i in sorted(open_)]
        return [{**choice, "finish_reason": "content_filter"} for choice in (refusal, *others)]

    def _choice(self, choice: dict[str, Any], where: str, *, last: bool) -> None:
        ended_by = choice.get("stop_reason")
        _only(choice, _CHOICE)
        if ended_by in self._stops or isinstance(ended_by, int):
            choice["stop_reason"] = ended_by
        index = int(choice.get("index") or 0)
        holder = choice.get(where)
        holder = choice[where] = holder if isinstance(holder, dict) else {}
        _only(holder, _MESSAGE if index not in self._ended else frozenset({"role"}))
        before = _told(holder)
        self._texts(index, holder)
        if last and index not in self._ended:
            self._flush(index, holder)
            self._ended.add(index)
        if _told(holder) != before:
            choice.pop("logprobs", None)  # they spell out what was redacted or is held back

    def _texts(self, index: int, holder: dict[str, Any]) -> None:
        for field in _TEXTS:
            if isinstance(holder.get(field), str):
                holder[field] = self._pass((index, field, 0), holder[field])
            elif holder.get(field) is not None:
                del holder[field]
        if isinstance(old := holder.get("function_call"), dict) and isinstance(old.get("arguments"), str):
            old["arguments"] = self._pass((index, "function_call", 0), old["arguments"])
        for place, call in enumerate(holder.get("tool_calls") or []):
            function = call.get("function") or {}
            if isinstance(function.get("arguments"), str):
                key = (index, "arguments", int(call.get("index", place)))
                function["arguments"] = self._pass(key, function["arguments"])

    def _flush(self, index: int, holder: dict[str, Any]) -> dict[str, Any]:
        """The end of a choice: what was held comes with its last chunk."""
        for (choice, field, call), stream in self._streams.items():
            if choice != index or choice in self._ended or self.blocked is not None:
                continue
            emission = stream.finish()
            if emission.blocked is not None:
                self._block(index, emission.blocked)
            if not emission.text:
                continue
            if field == "arguments":
                calls = holder.setdefault("tool_calls", [])
                known = next((c for place, c in enumerate(calls) if int(c.get("index", place)) == call), None)
                if known is None:
                    known = {"index": call}
                    calls.append(known)
                _add(known.setdefault("function", {}), "arguments", emission.text)
            elif field == "function_call":
                _add(holder.setdefault("function_call", {}), "arguments", emission.text)
            else:
                _add(holder, field, emission.text)
        return holder

    def _pass(self, key: Key, text: str) -> str:
        if self.blocked is not None:
            return ""
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = self._policy.output()
        emission = stream.feed(text)
        if emission.blocked is not None:
            self._block(key[0], emission.blocked)
        return emission.text

    def _block(self, choice: int, finding: Finding) -> None:
        self.blocked, self._blocked_choice = finding, choice


def _add(holder: dict[str, Any], key: str, text: str) -> None:
    holder[key] = (holder.get(key) or "") + text


def _only(holder: dict[str, Any], known: frozenset[str], *, figures: bool = False) -> None:
    for name in [n for n, value in holder.items() if n not in known and not (figures and _figure(value))]:
        del holder[name]


def _figure(value: Any) -> bool:
    """A number, or numbers by name."""
    return all(map(_figure, value.values())) if isinstance(value, dict) else isinstance(value, int | float | None)


def _told(holder: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(holder.get(name) for name in _TEXTS)
