"""What a source must be: something that turns the part of a reference after its scheme into files on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilothouse.core.progress import Progress


@dataclass(frozen=True)
class Fetched:
    """Files that a source delivered. files: relative POSIX name → path. origin: the reference, pinned, to record.

    temporary: the files lie in the folder that the caller gave and may be moved away.
    """

    files: dict[str, Path]
    origin: str
    licence: str = ""
    temporary: bool = True


class Source(Protocol):
    """A place that models and data come from. Errors are UserErrors of one line; nothing is left outside `into`."""

    def pinned(self, rest: str) -> str | None:
        """The origin that `rest` will have, when that is known without network and never changes meaning; else None."""

    def fetch(self, rest: str, *, folder: Path, into: Path, progress: Progress) -> Fetched:
        """Bring the files. folder: where the project lies (for relative paths); into: an empty folder to write to."""
