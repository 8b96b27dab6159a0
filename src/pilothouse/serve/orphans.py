"""Engines that a killed Pilothouse left behind: noted when they start, found and ended at the next start.

The warden ends an engine when Pilothouse dies; this is for the case that both were killed. Ids are used again, so a
process is known by its id and its time of start; and it is left behind only when its owner, known in the same way, is
gone. An engine leads a process group of its own: the whole group is ended.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec


class _Note(msgspec.Struct, frozen=True):
    """Which process is whose. `started` in clock ticks since boot (proc(5), field 22)."""

    pid: int
    started: int
    owner: int
    owner_started: int


def note(file: Path, pid: int) -> None:
    """Write down that this process of ours has started that engine."""
    said = _Note(pid, _started(pid), os.getpid(), _started(os.getpid()))
    file.write_bytes(msgspec.json.encode(said))


def end(folder: Path) -> list[str]:
    """End what was left behind in `folder`; says what it ended."""
    said = []
    for file in sorted(folder.glob("engine-*.pid")):
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_Note)
        except (msgspec.DecodeError, OSError):
            file.unlink(missing_ok=True)  # cut off while it was written: its warden ends it anyway
            continue
        if _started(found.owner) == found.owner_started:
            continue
        started = _started(found.pid)
        # A group's number is not given away while one of the group lives: its leader may be gone.
        if found.started and (started == found.started or (started == 0 and _group(found.pid))):
            kill_group(found.pid)
            said.append(f"engine process {found.pid} was left behind: ended")
        file.unlink(missing_ok=True)
    return said


def kill_group(pid: int | None) -> None:
    """SIGKILL to the group that an engine leads."""
    if pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _group(pid: int) -> bool:
    """Does anybody of the group that this process led still live?"""
    stats = (_stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return any(fields[0] != "Z" and int(fields[2]) == pid for fields in stats if fields)


def _started(pid: int) -> int:
    """0 when there is no such process (a zombie is none), or no /proc to ask."""
    fields = _stat(pid)
    return 0 if not fields or fields[0] == "Z" else int(fields[19])


def _stat(pid: int) -> list[str]:
    """proc(5): what follows the name in /proc/PID/stat, from the state (field 3) on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
