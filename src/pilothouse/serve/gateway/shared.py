"""What do the gateway's processes know together? One piece of shared memory: a row a process, summed at reading.

A process writes its own rows only, so counting needs no lock: an aligned 8-byte store is seen whole or not at all. The
few values that two processes change (the buckets of a key, a circuit's state) lie in common rows; whoever changes one
holds that row's lock, which the kernel takes back when its holder dies (fcntl(2), record locks).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from typing import Any

from pilothouse.serve.gateway.layout import COLUMNS

MODELS, KEYS, MEMBERS, DETECTORS = 33, 1025, 50, 32
"""Rows there are. The last row of MODELS and of KEYS takes what has none of its own. A set of members fits a float."""
PREFIXES = 1 << 15
_WORD = 8


class Table:
    """rows × columns of floats, once for all processes or once a process."""

    __slots__ = ("_columns", "_own", "_rows", "_starts", "cells")

    def __init__(self, cells: Any, base: int, rows: int, columns: int, copies: int, own: int) -> None:
        self.cells, self._rows, self._columns = cells, rows, columns
        self._starts = [base + i * rows * columns for i in range(copies)]
        self._own = self._starts[own if copies > 1 else 0]

    def at(self, row: int) -> int:
        """Where this process' row begins in `cells`: for those who count many things at once."""
        return self._own + row * self._columns

    def add(self, row: int, column: int, value: float = 1.0) -> None:
        """Count, in this process' row."""
        self.cells[self._own + row * self._columns + column] += value

    def set(self, row: int, column: int, value: float) -> None:
        """Write, in this process' row (the only one of a common table)."""
        self.cells[self._own + row * self._columns + column] = value

    def own(self, row: int, column: int) -> float:
        """This process' value."""
        return float(self.cells[self._own + row * self._columns + column])

    def total(self, row: int, column: int) -> float:
        """The sum over processes."""
        if len(self._starts) == 1:
            return float(self.cells[self._own + row * self._columns + column])
        at, cells = row * self._columns + column, self.cells
        return float(sum(cells[start + at] for start in self._starts))

    def sums(self, row: int) -> list[float]:
        """The sums of a whole row."""
        return [self.total(row, column) for column in range(self._columns)]

    def clear(self, process: int, column: int) -> None:
        """Zero a column of a process that has ended: what it held is free again."""
        start = self._starts[process]
        for row in range(self._rows):
            self.cells[start + row * self._columns + column] = 0.0


class Shared:
    """The memory, cut into tables. `process` numbers this process among `processes` (0 is alone or the first)."""

    def __init__(self, processes: int = 1, process: int = 0, fd: int | None = None) -> None:
        sizes = {
            "models": (MODELS, COLUMNS, processes),
            "keys": (KEYS, len(KEY_COLUMNS), processes),
            "members": (MEMBERS, len(MEMBER_COLUMNS), processes),
            "guard": (DETECTORS, len(DECISIONS), processes),
            "process": (1, len(PROCESS_COLUMNS), processes),
            "buckets": (KEYS, len(BUCKET_COLUMNS), 1),
            "circuits": (MEMBERS, len(CIRCUIT_COLUMNS), 1),
            "gauges": (MEMBERS, len(GAUGE_COLUMNS), 1),
            "prefixes": (PREFIXES, 2, 1),
        }
        words = sum(rows * columns * copies for rows, columns, copies in sizes.values())
        if fd is None:
            fd = os.memfd_create("pilothouse") if hasattr(os, "memfd_create") else _unlinked()
            os.ftruncate(fd, words * _WORD)
            weakref.finalize(self, os.close, fd)
        self.fd, self.process, self.many = fd, process, processes > 1
        self._memory = mmap.mmap(fd, words * _WORD)
        cells: Any = memoryview(self._memory).cast("d")
        tables, base = dict[str, Table](), 0
        for name, (rows, columns, copies) in sizes.items():
            tables[name] = Table(cells, base, rows, columns, copies, process)
            base += rows * columns * copies
        self.models, self.keys, self.members, self.guard = (tables[n] for n in ("models", "keys", "members", "guard"))
        self.own, self.buckets, self.circuits = tables["process"], tables["buckets"], tables["circuits"]
        self.gauges, self.prefixes = tables["gauges"], tables["prefixes"]

    def lock(self, row: int) -> None:
        """Hold a row of the common tables against the other processes. Alone there is nobody to hold it against."""
        if self.many:
            fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, row)

    def unlock(self, row: int) -> None:
        """Let it go; the kernel does so when a holder dies."""
        if self.many:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, row)

    def forget(self, process: int) -> None:
        """What an ended process had in flight is in flight no more."""
        self.keys.clear(process, RUNNING)
        self.members.clear(process, M_RUNNING)
        self.members.clear(process, M_TOKENS)
        self.own.clear(process, IN_FLIGHT)
        self.own.clear(process, WAITING)


def _unlinked() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


KEY_COLUMNS = ("requests", "tokens_in", "tokens_out", "cost", "refused", "running")
REQUESTS, TOKENS_IN, TOKENS_OUT, COST, REFUSED, RUNNING = range(len(KEY_COLUMNS))
MEMBER_COLUMNS = ("running", "tokens")
M_RUNNING, M_TOKENS = range(len(MEMBER_COLUMNS))
DECISIONS = ("off", "passed", "flagged", "redacted", "blocked", "unscanned")
PROCESS_COLUMNS = ("in_flight", "waiting", "dropped")
IN_FLIGHT, WAITING, DROPPED = range(len(PROCESS_COLUMNS))
BUCKET_COLUMNS = ("requests_at", "tokens_at", "spent_before")
B_REQUESTS, B_TOKENS, B_SPENT = range(len(BUCKET_COLUMNS))
CIRCUIT_COLUMNS = ("failures", "open_until", "adapter")
C_FAILURES, C_OPEN_UNTIL, C_ADAPTER = range(len(CIRCUIT_COLUMNS))
GAUGE_COLUMNS = ("running", "waiting", "kv_used", "service_s", "ttft_s", "unwritten")
G_RUNNING, G_WAITING, G_KV, G_SERVICE, G_TTFT, G_UNWRITTEN = range(len(GAUGE_COLUMNS))
