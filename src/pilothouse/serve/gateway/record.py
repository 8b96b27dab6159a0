"""Keep exchanges without slowing them: a bounded queue, written to the store in batches by a thread."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from pilothouse.core.records import Finding
from pilothouse.store import schema
from pilothouse.store.store import Store

_BATCH_S = 0.25
_QUEUE = 10_000


class Exchange(msgspec.Struct, frozen=True):
    """One production request and its answer. Texts are those after the guard; None where they are not kept.

    guard: off, passed, flagged, redacted, blocked, or unscanned (a detector failed: never called passed).
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


class Recorder(Protocol):
    """Where exchanges and feedback go. `record` never blocks."""

    dropped: int

    def record(self, exchange: Exchange) -> None: ...
    def feedback(self, exchange: str, kind: str, value: str) -> bool: ...
    def close(self) -> None: ...


class StoreRecorder:
    """Writes to the store's `exchanges` and `feedback` tables. What does not fit the queue is counted in `dropped`."""

    def __init__(self, store: Store, *, record_text: bool) -> None:
        self._store, self._text = store, record_text
        self._queue: queue.Queue[Exchange | threading.Event | None] = queue.Queue(_QUEUE)
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="exchanges", daemon=True)
        self._thread.start()

    def record(self, exchange: Exchange) -> None:
        """Put it in the queue."""
        try:
            self._queue.put_nowait(exchange)
        except queue.Full:
            self.dropped += 1

    def feedback(self, exchange: str, kind: str, value: str) -> bool:
        """Keep a thumb or an edit; False when there is no such exchange. Blocks: call it off the event loop."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(5)
        known = sa.select(schema.exchanges.c.id).where(schema.exchanges.c.id == exchange)
        with self._store.engine.begin() as c:
            if c.execute(known).scalar() is None:
                return False
            row = {"exchange": exchange, "at": time.time(), "kind": kind, "value": value}
            c.execute(sa.insert(schema.feedback).values(**row))
        return True

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join(10)

    def _write(self) -> None:
        ended = False
        while not ended:
            batch, written = [], []
            item = self._queue.get()
            while True:
                if item is None:
                    ended = True
                    break
                if isinstance(item, threading.Event):
                    written.append(item)
                    break
                batch.append(self._row(item))
                if len(batch) >= 500:
                    break
                try:
                    item = self._queue.get(timeout=_BATCH_S)
                except queue.Empty:
                    break
            if batch:
                try:
                    with self._store.engine.begin() as c:
                        c.execute(sa.insert(schema.exchanges), batch)
                except sa.exc.SQLAlchemyError:
                    self.dropped += len(batch)
            for event in written:
                event.set()

    def _row(self, e: Exchange) -> dict[str, Any]:
        row: dict[str, Any] = msgspec.structs.asdict(e)
        row["findings"] = msgspec.json.encode(e.findings)
        row["request"] = msgspec.json.encode(e.request) if self._text and e.request is not None else None
        row["answer"] = e.answer if self._text else None
        return row
