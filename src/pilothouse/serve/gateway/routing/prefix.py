"""Which engine has the beginning of this prompt in its cache? A table of hashed beginnings, of fixed size, shared.

A prompt is cut into blocks; each block's hash continues the one before it, so equal hashes mean equal beginnings. A
slot holds the newest prompt that fell on it: forgetting is overwriting, and the memory never grows. It is a guess about
the engine's cache, not a copy of it: a wrong guess costs one prefill.
"""

from __future__ import annotations

from zlib import crc32

from pilothouse.serve.gateway import shared as sh

BLOCK = 256
"""Bytes a block: about 64 tokens."""
_LONGEST = 128


def blocks(text: bytes) -> list[int]:
    """The chained hashes of a text's whole blocks, from its beginning."""
    found, state = [], 0
    for at in range(0, min(len(text) - BLOCK + 1, BLOCK * _LONGEST), BLOCK):
        state = crc32(text[at : at + BLOCK], state)
        found.append(state)
    return found


class Prefixes:
    """The table. Two processes may write a slot at once; then one of two right guesses is lost."""

    __slots__ = ("_table",)

    def __init__(self, shared: sh.Shared) -> None:
        self._table = shared.prefixes

    def share(self, hashes: list[int], member: int) -> float:
        """The share of the prompt's blocks, from its beginning, that this member has answered before."""
        if not hashes:
            return 0.0
        cells, at, bit, seen = self._table.cells, self._table.at(0), 1 << member, 0
        for value in hashes:
            slot = at + 2 * (value % sh.PREFIXES)
            if cells[slot] != value or not int(cells[slot + 1]) & bit:
                break
            seen += 1
        return seen / len(hashes)

    def note(self, hashes: list[int], member: int) -> None:
        """This member answers this prompt now."""
        cells, at, bit = self._table.cells, self._table.at(0), 1 << member
        for value in hashes:
            slot = at + 2 * (value % sh.PREFIXES)
            if cells[slot] == value:
                cells[slot + 1] = float(int(cells[slot + 1]) | bit)
            else:
                cells[slot], cells[slot + 1] = float(value), float(bit)
