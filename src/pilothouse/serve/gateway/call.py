"""What is known about one request while it is answered; in the end it is the record of the exchange."""

from __future__ import annotations

import time
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Any

from pilothouse.core.records import Finding
from pilothouse.serve.gateway.limits import Key
from pilothouse.serve.gateway.record import Exchange

if TYPE_CHECKING:
    from pilothouse.guard.policy import InputDecision

TOKENS_UNSAID = 256
"""Tokens of an answer whose request sets no limit, where a number is needed before it is known."""


class Call:
    """One request to a model. Times: CLOCK_MONOTONIC seconds; began: its last byte was read; sent: it was handed to an
    engine; head: the engine began to answer; first, last: tokens went out.

    asked: the caller's body; body: the engine's, in chat form for most dialects (the guard reads and changes it).
    prompt: the asked body's bytes from where its text begins. tokens: about how many it may cost, prompt and answer;
    asks: the prompt's part of them; pieces: events that went out.
    """

    # Most of these stay as they are for most calls: defaults of the class cost a call nothing.
    sent = head = last = queue_s = overhead_s = 0.0
    first: float | None = None
    tokens, asks, pieces, prompt = 0, 0, 0, b""
    tokens_in: int | None = None
    tokens_out: int | None = None
    guard, findings = "off", tuple[Finding, ...]()
    keeps_text = False
    backend = release = finish = session = trace = span = ""

    def __init__(self, api: str, asked: dict[str, Any], key: Key, began: float) -> None:
        self.id = new_id()
        self.api, self.asked, self.key, self.began = api, asked, key, began
        self.body: dict[str, Any] = asked
        self.model: str = asked["model"]
        self.stream = asked.get("stream") is True
        self.at = time.time()
        self.answer: list[str] = []

    def usage(self, prompt: Any, completion: Any) -> None:
        """What the engine has counted. For several answers llama.cpp says it one answer after another: they add up."""
        prompt, completion = _count(prompt), _count(completion)
        if self.tokens_out is not None and completion is not None and self.several:
            completion += self.tokens_out
        self.tokens_in, self.tokens_out = prompt, completion

    def counted(self, said: dict[str, Any]) -> bool:
        """Take the usage out of an answer or a chunk; False when it has none."""
        usage = said.get("usage")
        if not isinstance(usage, dict):
            return False
        self.usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
        return True

    def used(self) -> tuple[int, int]:
        """What the caller has used: as the engine counted; where a client left before the count, as much as went out.
        Else a client could read all but the last event and pay nothing."""
        if self.tokens_in is not None or self.tokens_out is not None:
            return self.tokens_in or 0, self.tokens_out or 0
        return (self.asks, self.pieces) if self.first is not None else (0, 0)

    @property
    def several(self) -> bool:
        """Are several answers asked for at once?"""
        prompts = self.body.get("prompt")
        return (self.body.get("n") or 1) > 1 or (isinstance(prompts, list) and len(prompts) > 1)

    def note_input(self, found: InputDecision, unscanned: tuple[str, ...]) -> None:
        """The input guard's part."""
        self.findings, self.guard = found.findings, "passed"
        if found.action == "block":
            self.guard = "blocked"
        elif unscanned:
            self.guard = "unscanned"
        elif found.action != "pass":
            self.guard = {"redact": "redacted", "flag": "flagged"}[found.action]

    def note_output(self, findings: tuple[Finding, ...], unscanned: tuple[str, ...], *, blocked: bool) -> None:
        """The output guard's part; the graver of both stays. An unscanned answer is never called passed."""
        self.findings += findings
        if blocked:
            self.guard = "blocked"
        elif unscanned:
            self.guard = "unscanned"
        elif self.guard != "unscanned" and any(f.action == "redact" for f in findings):
            self.guard = "redacted"
        elif self.guard == "passed" and findings:
            self.guard = "flagged"

    def overhead(self) -> str:
        """What we have added so far, in µs: before it was sent and since the engine's (last) byte came, without the
        time in the queue."""
        now = monotonic()
        if self.head:
            self.overhead_s = self.sent - self.began - self.queue_s + now - self.head
        else:
            self.overhead_s = now - self.began - self.queue_s
        return str(int(self.overhead_s * 1e6))

    def exchange(self, status: int, now: float) -> Exchange:
        """The record of it all."""
        return Exchange(
            id=self.id,
            at=self.at,
            release=self.release,
            model=self.model,
            caller=self.key.name,
            stream=self.stream,
            status=status,
            ttft_ms=(self.first - self.began) * 1e3 if self.first else None,
            latency_ms=(now - self.began) * 1e3,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            guard=self.guard,
            findings=self.findings,
            request=self._texts() if self.keeps_text and self.guard != "blocked" else None,
            answer="".join(self.answer) if self.keeps_text else None,
            api=self.api,
            key=self.key.id,
            backend=self.backend,
            finish=self.finish,
            queue_ms=self.queue_s * 1e3,
            overhead_us=self.overhead_s * 1e6,
            trace=self.trace,
            span=self.span,
        )

    def _texts(self) -> list[Any] | None:
        found = self.body.get("messages", self.body.get("prompt", self.body.get("input")))
        return found if isinstance(found, list) else [found]


def new_id() -> str:
    """An id for a request, made without asking the kernel."""
    return f"req_{getrandbits(80):020x}"


def _count(said: Any) -> int | None:
    """A count of tokens; None for what can be none."""
    return said if isinstance(said, int) and 0 <= said < 2**40 else None
