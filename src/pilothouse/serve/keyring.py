"""Which keys does the gateway know, and what have they used? Keys of the store and of the environment, usage kept.

The store is looked at once a second: a key that is added, changed or revoked counts a second later, in every process.
Usage is counted in the gateway's shared memory and written to the store from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import time

from sqlalchemy.exc import SQLAlchemyError

from pilothouse.core.errors import UserError
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.auth import plain_keys
from pilothouse.serve.gateway.limits import Key
from pilothouse.store import keys as stored
from pilothouse.store.store import Store

_LOOK_S = 1.0
_NOTHING = [0.0] * len(sh.KEY_COLUMNS)


class Keyring:
    """All keys. plain: name → secret from the environment, without limits and without usage in the store."""

    def __init__(self, store: Store, plain: Mapping[str, str]) -> None:
        self._store = store
        self._plain = plain_keys(plain)
        self._rows: dict[int, int] = {}
        self._version = ""
        self._memory: sh.Shared | None = None
        self._changed: Callable[[], None] = lambda: None
        self._written: dict[int, list[float]] = {}
        self._since = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="keys", daemon=True)

    def keys(self) -> tuple[Key, ...]:
        """All live keys, each with a row in memory that it keeps for as long as this gateway runs."""
        self._version = stored.version(self._store)
        found = []
        for key in stored.listed(self._store):
            if key.state() != "live":
                continue
            row = self._rows.setdefault(key.id, len(self._plain) + len(self._rows))
            if row >= sh.KEYS - 1:
                raise UserError(f"more than {sh.KEYS - 1} keys", fix="Revoke some: pilothouse keys revoke NAME.")
            limits = ("requests_per_minute", "tokens_per_minute", "concurrency", "budget", "models", "expires")
            found.append(Key(key.name, key.digest, row, key.id, **{name: getattr(key, name) for name in limits}))
        return (*self._plain, *found)

    def attach(self, memory: sh.Shared, changed: Callable[[], None]) -> None:
        """Begin to watch: `changed` is called when the store's keys are new; usage is read from `memory`."""
        self._memory, self._changed = memory, changed
        self._month()
        self._thread.start()

    def close(self) -> None:
        """Write what is not written yet."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._write()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_S):
            with suppress(SQLAlchemyError, UserError):  # a store that is busy or away now is asked again in a second
                self._write()
                if stored.version(self._store) != self._version:
                    self._changed()
                    self._month()
                elif stored.month() != self._since:
                    self._month()

    def _write(self) -> None:
        """What has been used since the last time."""
        if self._memory is None:
            return
        rows, written = [], dict[int, list[float]]()
        for key, row in list(self._rows.items()):
            now = self._memory.keys.sums(row)
            before = self._written.get(key, _NOTHING)
            new = {name: a - b for name, a, b in zip(sh.KEY_COLUMNS, now, before, strict=True) if name != "running"}
            if any(new.values()):
                cost = new.pop("cost")
                counts = {name: int(n) for name, n in new.items()}
                rows.append(stored.Usage(key, stored.today(), **counts, cost=cost, seen=time()))
                written[key] = now
        if rows:
            stored.add_usage(self._store, rows)
            self._written |= written

    def _month(self) -> None:
        """What each key has spent this month beside what this memory counts."""
        if self._memory is not None:
            self._since = stored.month()
            for key, row in list(self._rows.items()):
                spent = stored.spent(self._store, key) - self._written.get(key, _NOTHING)[sh.COST]
                self._memory.buckets.set(row, sh.B_SPENT, spent)
