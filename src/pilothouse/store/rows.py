"""Rows of a dataset asset: one JSON object a line in `<split>.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilothouse.core.messages import Row
from pilothouse.core.records import Asset
from pilothouse.store.store import Store

_ROW = msgspec.json.Decoder(Row)


def read(store: Store, dataset: Asset, split: str) -> list[Row]:
    """The rows of one split, in file order."""
    return [_ROW.decode(line) for line in store.read(dataset, f"{split}.jsonl").splitlines() if line]


def encode(rows: Iterable[object]) -> bytes:
    """Rows (or any records) as JSON lines."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
