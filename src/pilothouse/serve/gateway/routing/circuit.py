"""Should this engine be left alone for a while? A circuit breaker a member, its state shared by the processes.

Five failures in a row open it, for one second, then two, up to thirty; after that one request tries (half open): if it
succeeds the circuit closes, if not it opens for longer. What the caller did wrong (4xx) is no failure.
"""

from __future__ import annotations

from time import monotonic

from pilothouse.serve.gateway import shared as sh

FAILURES = 5
_FIRST_S, _LONGEST_S = 1.0, 30.0


class Circuit:
    """One member's. Times are CLOCK_MONOTONIC, which all processes of a machine share."""

    __slots__ = ("_row", "_shared", "_table")

    def __init__(self, shared: sh.Shared, row: int) -> None:
        self._shared, self._row, self._table = shared, row, shared.circuits

    def is_open(self, now: float | None = None) -> bool:
        """Must no request go there?"""
        if self._table.own(self._row, sh.C_FAILURES) < FAILURES:
            return False
        return (monotonic() if now is None else now) < self._table.own(self._row, sh.C_OPEN_UNTIL)

    def trying(self) -> None:
        """A request goes there; when half open, the others wait to see how it fares."""
        if self._table.own(self._row, sh.C_FAILURES) >= FAILURES:
            self._open()

    def succeeded(self) -> None:
        """It answers."""
        if self._table.own(self._row, sh.C_FAILURES):
            self._table.set(self._row, sh.C_FAILURES, 0.0)

    def failed(self) -> None:
        """It did not answer, or broke off, or said 5xx."""
        self._shared.lock(sh.KEYS + self._row)
        self._table.add(self._row, sh.C_FAILURES)
        self._shared.unlock(sh.KEYS + self._row)
        if self._table.own(self._row, sh.C_FAILURES) >= FAILURES:
            self._open()

    def _open(self) -> None:
        more = min(self._table.own(self._row, sh.C_FAILURES) - FAILURES, 10.0)
        self._table.set(self._row, sh.C_OPEN_UNTIL, monotonic() + min(_FIRST_S * 2.0**more, _LONGEST_S))
