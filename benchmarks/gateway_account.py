"""What did a front use? CPU and memory of its processes, by the kernel's account."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all their descendants that live now."""
    found: dict[int, None] = {}
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found[pid] = None
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:  # the thread ended meanwhile
                continue
    return list(found)


def cpu_ns(pids: Iterable[int]) -> int:
    """User and system time of these processes in nanoseconds, all threads, ended ones included.

    The clock of another process (clock_getcpuclockid(3)) counts what the scheduler counted; /proc/PID/stat shows the
    same in steps of 10 ms.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def memory_mb(pids: Iterable[int], field: str = "Rss") -> float:
    """Resident memory in MB, shared pages counted in every process (Rss) or divided among them (Pss)."""
    kilobytes = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kilobytes += int(rollup.partition(f"\n{field}:")[2].split()[0])
    return kilobytes * 1024 / 1e6
