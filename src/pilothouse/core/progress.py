"""How a long job says where it is: a small protocol that stages call and the terminal (or nobody) implements."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A sink for progress. Calls are cheap and may come from one thread only."""

    def begin(self, label: str, total: int | None = None) -> None:
        """Start a bar (total known) or a spinner; ends the one before."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """n more of total are done; figures (loss, share, …) are shown beside the bar."""

    def note(self, text: str) -> None:
        """One line worth keeping in the log."""

    def end(self) -> None:
        """The current bar is done."""


class Silent:
    """A Progress that shows nothing: for tests and for `--json`."""

    def begin(self, label: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
