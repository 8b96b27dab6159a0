"""A journal survives being cut at any byte and never gives back half a record."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.store.journal import Journal


class Item(msgspec.Struct, frozen=True):
    n: int
    text: str


ITEMS = st.lists(st.builds(Item, st.integers(0, 2**40), st.text(max_size=20)), max_size=8)


@given(ITEMS, st.integers(0, 400), ITEMS)
def test_a_cut_at_any_byte_keeps_the_whole_records_before_it(items: list[Item], cut: int, more: list[Item]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j.jsonl"
        with Journal(path, Item) as journal:
            for item in items:
                journal.append(item)
        data = path.read_bytes()[:cut]
        path.write_bytes(data)
        survivors = items[: data.count(b"\n")]
        with Journal(path, Item) as journal:
            assert journal.kept == survivors
            for item in more:
                journal.append(item)
        with Journal(path, Item) as journal:
            assert journal.kept == survivors + more


def test_a_line_lost_in_a_power_cut_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"n":1,"text":"a"}\n\0\0\0\0\n{"n":2,"text":"b"}\n')
    with Journal(path, Item) as journal:
        assert journal.kept == [Item(1, "a"), Item(2, "b")]
