"""Keep exchanges without slowing them: a bounded queue, written to the store in batches by a thread."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.serve.gateway.record import Exchange
from pilothouse.store import schema
from pilothouse.store.store import Store

_BATCH_S = 0.25
_QUEUE = 10_000


class StoreRecorder:
    """Writes to the store's `exchanges` and `feedback` tables. What does not fit the queue is counted in `dropped`."""

    def __init__(self, store: Store, *, record_text: bool) -> None:
        self._store, self.keeps_text = store, record_text
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

    async def feedback(self, exchange: str, kind: str, value: str) -> bool:
        """Keep a thumb or an edit; False when there is no such exchange."""
        return await asyncio.get_running_loop().run_in_executor(None, self.keep, exchange, kind, value)

    def keep(self, exchange: str, kind: str, value: str) -> bool:
        """The same for code that may wait."""
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
        columns = {c.name for c in schema.exchanges.columns}
        row: dict[str, Any] = {k: v for k, v in msgspec.structs.asdict(e).items() if k in columns}
        row["findings"] = msgspec.json.encode(e.findings)
        row["request"] = msgspec.json.encode(e.request) if self.keeps_text and e.request is not None else None
        row["answer"] = e.answer if self.keeps_text else None
        return row
