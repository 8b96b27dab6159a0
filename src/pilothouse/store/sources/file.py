"""Files on this disk: `file:PATH`, relative to the project's folder; a single file or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress
from pilothouse.store.sources._base import Fetched


class FileSource:
    """Reads in place: nothing is copied before the store takes it."""

    def pinned(self, rest: str) -> str | None:
        """None: a path may hold other bytes tomorrow."""
        return None

    def fetch(self, rest: str, *, folder: Path, into: Path, progress: Progress) -> Fetched:
        """The file, or every file of the folder whose name does not start with a dot."""
        path = (folder / Path(rest).expanduser()).resolve()
        if path.is_file():
            files = {path.name: path}
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file())
            inside = {p.relative_to(path): p for p in found}
            files = {name.as_posix(): p for name, p in inside.items() if not any(q.startswith(".") for q in name.parts)}
        else:
            raise UserError(f"no such file or folder: {str(path)!r}", where=f"file:{rest}", fix="Check the path.")
        if not files:
            raise UserError("the folder is empty", where=f"file:{rest}")
        return Fetched(files, f"file:{path}", temporary=False)


def create() -> FileSource:
    """The source of `file:` references."""
    return FileSource()
