"""Progress on the terminal: bars where someone watches, plain lines where nobody does."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S = 10.0


class Terminal:
    """A core.progress.Progress on stderr, so that stdout stays for results and JSON."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._done = "", 0
        self._total: int | None = None
        self._spoken = 0.0

    def begin(self, label: str, total: int | None = None) -> None:
        """Start a bar or spinner; the one before ends."""
        self.end()
        self._label, self._done, self._total, self._spoken = label, 0, total, time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"  {label}" + (f" (0 of {total})" if total else ""))
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn() if total else TextColumn(""),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(f"  {label}", total=total, figures="")

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """n more are done; figures stand beside the bar."""
        self._done += n
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=n, figures=shown)
        elif time.monotonic() - self._spoken > _PLAIN_EVERY_S:
            self._spoken = time.monotonic()
            self.console.print(f"    {self._done}" + (f" of {self._total}" if self._total else "") + f"  {shown}")

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(f"  {text}", markup=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None

    def headline(self, text: str) -> None:
        """A stage begins or ended: one bold line."""
        self.end()
        self.console.print(text, style="bold", markup=False)
        sys.stderr.flush()
