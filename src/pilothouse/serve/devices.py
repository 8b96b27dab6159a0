"""What memory is there: this machine's RAM within its control group's limit, and the GPUs that a process may use."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CGROUP, _NODES = Path("/sys/fs/cgroup"), Path("/sys/devices/system/node")
_QUERY = ("--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_PATIENCE_S = 20.0  # the first call after a boot loads the driver


@dataclass(frozen=True)
class Gpu:
    """One GPU. total and free in bytes; None where the driver does not tell (memory shared with the CPU)."""

    index: int
    uuid: str
    name: str
    total: int | None
    free: int | None


def available() -> int | None:
    """Bytes that a new process can take: Linux's MemAvailable, or what its control group leaves. None: not told."""
    machine, group = _meminfo("MemAvailable"), _group(_CGROUP)
    if machine is None or group is None:
        return machine
    limit, used = group
    return min(machine, max(0, limit - used))


def capacity() -> int | None:
    """Bytes of RAM in all: the machine's, or its control group's limit. None: not told."""
    machine, group = _meminfo("MemTotal"), _group(_CGROUP)
    return machine if machine is None or group is None else min(machine, group[0])


def node_room() -> int | None:
    """Bytes free on the memory node (NUMA) of the first core that this process may use. None: not told."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    core = min(os.sched_getaffinity(0))
    node = next((n for n in sorted(_NODES.glob("node[0-9]*")) if (n / f"cpu{core}").exists()), None)
    if node is None or not (node / "meminfo").is_file():
        return None
    told = {
        words[2].rstrip(":"): int(words[3]) * 1024
        for words in map(str.split, (node / "meminfo").read_text().splitlines())
        if len(words) > 3
    }
    return sum(told.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable"))


def _meminfo(name: str) -> int | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    told = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    return int(told[name].split()[0]) * 1024 if name in told else None


def _group(folder: Path) -> tuple[int, int] | None:
    """The control group's limit and use (pages of files that can be dropped are no use); None without a limit."""
    for limit_name, used_name, dropped_name, where in (
        ("memory.max", "memory.current", "inactive_file", folder),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", folder / "memory"),
    ):
        try:
            limit, used = (where / limit_name).read_text().strip(), int((where / used_name).read_text())
            stat = dict(line.split() for line in (where / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            return int(limit), used - int(stat.get(dropped_name, 0))
    return None


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA's GPUs that a new process would see (CUDA_VISIBLE_DEVICES), in its order; none without `nvidia-smi`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        asked = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer: no GPU that one could use
        return ()
    return visible(parse_gpus(asked.stdout.splitlines()), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(lines: Iterable[str]) -> tuple[Gpu, ...]:
    """The lines of `nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.free` (MiB, no units)."""

    def size(text: str) -> int | None:
        return int(text) * 2**20 if text.isdigit() else None

    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    return tuple(
        Gpu(int(row[0]), row[1], row[2], size(row[3]), size(row[4]))
        for row in rows
        if len(row) == 5 and row[0].isdigit()
    )


def visible(found: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves: by number or the beginning of the UUID; the first unknown ends the list.

    (CUDA programming guide, environment variables; so "-1" and "" leave none.)
    """
    if setting is None:
        return found
    chosen = []
    for name in (part.strip() for part in setting.split(",")):
        match = next((g for g in found if name and (name == str(g.index) or g.uuid.startswith(name))), None)
        if match is None:
            break
        chosen.append(match)
    return tuple(chosen)


def freest(found: tuple[Gpu, ...], count: int) -> tuple[Gpu, ...]:
    """The `count` GPUs with the most free memory, in their own order."""
    best = sorted(found, key=lambda g: -(g.free or 0))[:count]
    return tuple(g for g in found if g in best)
