"""Content-addressed files: written once under their sha256, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pilothouse.core.errors import UserError
from pilothouse.core.records import AssetFile

_CHUNK = 1 << 20


class Files:
    """The file part of a store: `files/ab/abcdef…` holds bytes, `tmp/` what is being written."""

    def __init__(self, root: Path) -> None:
        self.root, self.tmp = root / "files", root / "tmp"

    def path(self, sha256: str) -> Path:
        """Where the bytes of that digest lie (whether or not they are there)."""
        return self.root / sha256[:2] / sha256

    def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Keep `data`; returns its sha256 and size."""
        sha = hashlib.sha256(data).hexdigest()
        if not self.path(sha).exists():
            with self._staged() as (f, name):
                f.write(data)
                f.flush()
                self._commit(name, sha)
        return sha, len(data)

    def put_file(self, source: Path, *, move: bool = False) -> tuple[str, int]:
        """Keep a file's bytes (move: the source may be taken instead of copied); returns sha256 and size."""
        digest, size = hashlib.sha256(), 0
        same_disk = move and source.stat().st_dev == self._root_dev()
        with source.open("rb") as read, self._staged() as (f, name):
            while chunk := read.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if not same_disk:
                    f.write(chunk)
            sha = digest.hexdigest()
            if self.path(sha).exists():
                pass
            elif same_disk:
                self._commit(str(source), sha)
            else:
                f.flush()
                self._commit(name, sha)
        if move:
            source.unlink(missing_ok=True)
        return sha, size

    def link(self, file: AssetFile, folder: Path) -> Path:
        """Make `folder/file.path` hold the file's bytes without copying them where the disk allows hard links."""
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(self.path(file.sha256), target)
            except FileExistsError:
                pass
            except OSError:
                shutil.copyfile(self.path(file.sha256), target)
        return target

    def every(self) -> Iterator[Path]:
        """All kept files."""
        if self.root.exists():
            yield from (p for p in self.root.glob("??/*") if p.is_file())

    def _root_dev(self) -> int:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root.stat().st_dev

    @contextmanager
    def _staged(self) -> Iterator[tuple[IO[bytes], str]]:
        """A file in `tmp/` that vanishes unless `_commit` renames it away; flushed by `_commit`."""
        self.tmp.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self.tmp)
        try:
            with os.fdopen(fd, "wb") as f:
                yield f, name
        finally:
            Path(name).unlink(missing_ok=True)

    def _commit(self, written: str, sha: str) -> None:
        target = self.path(sha)
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(written, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        Path(written).chmod(0o444)
        Path(written).replace(target)


def disk_full(error: OSError) -> UserError | None:
    """A UserError when the operating system said that the disk (or quota) is full, else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full; nothing was half-written",
            where=str(error.filename or ""),
            fix="Free space (or set PILOTHOUSE_HOME to a larger disk) and run the same command again.",
        )
    return None
