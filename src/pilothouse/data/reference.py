"""Where a file of rows comes from: a path in the project, or any source's reference (`pypi:PACKAGE==VERSION#FILE`)."""

from __future__ import annotations

from pathlib import Path

from pilothouse.core import digest
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress
from pilothouse.data.base import Source


def resolve(reference: str, folder: Path, downloads: Path, progress: Progress, *, where: str) -> Source:
    """The file behind a reference; a download is kept under `downloads` and found there the next time.

    folder: the project's, where relative paths start. where: the setting, for errors.
    """
    scheme, colon, rest = reference.partition(":")
    if not colon or len(scheme) == 1:  # a drive letter is no scheme
        path = folder / reference
        if not path.is_file():
            what = f"is a folder: {reference!r}" if path.is_dir() else f"no such file: {reference!r}"
            raise UserError(what, where=where, fix=f"Paths start at {folder}.")
        return Source(path, reference)
    if scheme == "file":
        # A local file's bytes are an input of the run, so that a change runs the stage again; a download is pinned.
        raise UserError(f"{reference!r} is a local file", where=where, fix=f"Write it as a plain path: {rest}")
    from pilothouse.store.pull import fetch_file

    kept = downloads / digest.of_bytes(reference.encode())[:16]
    found = [p for p in kept.glob("*") if p.is_file()] if kept.is_dir() else []
    path = found[0] if len(found) == 1 else fetch_file(reference, folder=folder, into=kept, progress=progress)
    return Source(path, path.name)
