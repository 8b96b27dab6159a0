"""Keep exchanges without slowing them: a bounded queue, written to the store in batches by a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.serve.gateway.record import Exchange
from pilothouse.store import schema
from pilothouse.store.store import Store

_BATCH_S = 0.25
_BATCH = 2_000
_QUEUE = 20_000
_NO_FINDINGS = b"[]"
_UNFIT = (sa.exc.SQLAlchemyError, ValueError, TypeError, RecursionError)
"""What drivers raise for a row they cannot take. (PostgreSQL's do so for a NUL in a text, before they ask it.)"""


class StoreRecorder:
    """Writes to the store's `exchanges` and `feedback` tables. What does not fit the queue is counted in `dropped`."""

    def __init__(self, store: Store, *, record_text: bool) -> None:
        self._store, self.keeps_text = store, record_text
        self._queue: deque[Exchange] = deque()
        self.dropped = 0
        self._writing, self._ended = threading.Lock(), threading.Event()
        # The statement is made once and run with tuples: SQLAlchemy's way with dictionaries costs more than the insert.
        made = sa.insert(schema.exchanges).compile(dialect=store.engine.dialect)
        self._statement, positions = str(made), getattr(made, "positiontup", None)
        self._order: list[str] = positions or [c.name for c in schema.exchanges.columns]
        self._by_name, self._fields = positions is None, attrgetter(*self._order)
        self._findings, self._request, self._answer = map(self._order.index, ("findings", "request", "answer"))
        self._thread = threading.Thread(target=self._write, name="exchanges", daemon=True)
        self._thread.start()

    def record(self, exchange: Exchange) -> None:
        """Put it in the queue."""
        if len(self._queue) < _QUEUE:
            self._queue.append(exchange)
        else:
            self.dropped += 1

    async def feedback(self, exchange: str, kind: str, value: str) -> bool:
        """Keep a thumb or an edit; False when there is no such exchange."""
        return await asyncio.get_running_loop().run_in_executor(None, self.keep, exchange, kind, value)

    def keep(self, exchange: str, kind: str, value: str) -> bool:
        """The same for code that may wait."""
        self._drain()
        known = sa.select(schema.exchanges.c.id).where(schema.exchanges.c.id == exchange)
        with self._store.engine.begin() as c:
            if c.execute(known).scalar() is None:
                return False
            row = {"exchange": exchange, "at": time.time(), "kind": kind, "value": value}
            c.execute(sa.insert(schema.feedback).values(**row))
        return True

    def close(self) -> None:
        """Write what is left."""
        self._ended.set()
        self._thread.join(10)
        self._drain()

    def _write(self) -> None:
        while not self._ended.wait(_BATCH_S):
            self._drain()

    def _drain(self) -> None:
        """Write what is in the queue now."""
        with self._writing:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
                try:
                    self._insert(batch)
                except sa.exc.OperationalError:  # the store is away
                    self.dropped += len(batch)
                except _UNFIT:  # one that cannot be written must not take the others with it
                    for e in batch:
                        try:
                            self._insert([e])
                        except _UNFIT:
                            self.dropped += 1

    def _insert(self, batch: list[Exchange]) -> None:
        with self._store.engine.begin() as c:
            c.exec_driver_sql(self._statement, [self._row(e) for e in batch])

    def _row(self, e: Exchange) -> Any:
        row = list(self._fields(e))
        row[self._findings] = msgspec.json.encode(e.findings) if e.findings else _NO_FINDINGS
        kept = self.keeps_text and e.request is not None
        row[self._request] = msgspec.json.encode(e.request) if kept else None
        row[self._answer] = e.answer if self.keeps_text else None
        return dict(zip(self._order, row, strict=True)) if self._by_name else tuple(row)
