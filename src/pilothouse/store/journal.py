"""What did an interrupted run finish? An append-only JSON-lines file of one record type that survives kill -9."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
_SYNC_EVERY = 32
_SYNC_SECONDS = 1.0


class Journal(Generic[T]):
    """Records in the order they were appended. Written at once, forced to disk every 32 records or second.

    A crash can leave half a last line; opening cuts it off. One writer at a time (the run's lock sees to that).
    """

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder(kind)
        self.kept = self._recover()
        self._file = path.open("ab", buffering=0)
        self._waiting, self._synced = 0, time.monotonic()

    def __enter__(self) -> Journal[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: T) -> None:
        """Keep one record."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self.kept.append(record)
        self._waiting += 1
        if self._waiting >= _SYNC_EVERY or time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Force what is left to disk and close."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    def _sync(self) -> None:
        if self._waiting:
            os.fsync(self._file.fileno())
        self._waiting, self._synced = 0, time.monotonic()

    def _recover(self) -> list[T]:
        """The records of earlier attempts. A line that does not decode (lost in a power cut) is work to do again."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(self.path, whole)
        records = []
        for line in data[:whole].splitlines():
            try:
                records.append(self._decoder.decode(line))
            except msgspec.DecodeError:
                continue
        return records
