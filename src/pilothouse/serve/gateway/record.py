"""What is kept of a request and its answer, and whom the gateway tells of it."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from pilothouse.core.records import Finding


class Exchange(msgspec.Struct, frozen=True, array_like=True):
    """One production request and its answer. Texts are those after the guard; None where they are not kept.

    guard: off, passed, flagged, redacted, blocked, or unscanned (a detector failed: never called passed).
    api: the form it was asked in, or `shadow` for a copy that nobody saw. key: the store's id of the caller's key (0:
    none). backend: the engine that answered. trace: the caller's W3C traceparent; span: our span's id, sent upstream.
    """

    id: str
    at: float
    release: str
    model: str
    caller: str
    stream: bool
    status: int
    ttft_ms: float | None
    latency_ms: float | None
    tokens_in: int | None
    tokens_out: int | None
    guard: str
    findings: tuple[Finding, ...]
    request: list[Any] | None
    answer: str | None
    api: str = "chat"
    key: int = 0
    backend: str = ""
    finish: str = ""
    queue_ms: float = 0.0
    overhead_us: float = 0.0
    trace: str = ""
    span: str = ""


class Recorder(Protocol):
    """Where exchanges and feedback go. `record` never blocks."""

    dropped: int

    keeps_text: bool

    def record(self, exchange: Exchange) -> None: ...
    async def feedback(self, exchange: str, kind: str, value: str) -> bool: ...
    def close(self) -> None: ...
