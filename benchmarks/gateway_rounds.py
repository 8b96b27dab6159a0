"""How is one front measured? A warm-up, then rounds: CPU a request, CPU a chunk, lag behind the upstream's stamps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gateway_account import cpu_ns, memory_mb
from benchmarks.gateway_arms import Arm
from benchmarks.gateway_load import Tally, ask, check, paced, percentile, requests, streams
from benchmarks.gateway_mock import STANDARD
from pilothouse.core.client import run

IN_FLIGHT, STREAMS = 64, 32
_SHORT = {"ttft_ms": 1, "itl_ms": 1, "tokens": 8}
"""Timetable of the paced streams: what is added does not depend on it, so many fit into a second."""
_SLOWER = 20
"""A slow front gets a twentieth of the requests."""


@dataclass(frozen=True)
class Plan:
    """Size of a round: whole answers, times 32 streams, paced streams."""

    requests: int
    streams: int
    paced: int


@dataclass
class Seen:
    """What the rounds of one front showed. CPU in µs, one value a round; lags in µs, all values."""

    memory: dict[str, float] = field(default_factory=dict)
    cpu_request: list[float] = field(default_factory=list)
    cpu_chunk: list[float] = field(default_factory=list)
    worker_request: list[float] = field(default_factory=list)
    worker_chunk: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)

    def figures(self, direct: Seen) -> dict[str, Any]:
        """Medians over rounds with their ranges; what is added over asking the upstream directly.

        The 99th percentile is less the direct MEDIAN: what one request in a hundred waits more than a usual one. A
        difference of two tails would be small wherever the machine is noisy.
        """
        base_first, base_later = statistics.median(direct.first), statistics.median(direct.later)
        return {
            "cpu_us_request": _spread(self.cpu_request),
            "cpu_us_chunk": _spread(self.cpu_chunk),
            "worker_cpu_us_request": _spread(self.worker_request),
            "worker_cpu_us_chunk": _spread(self.worker_chunk),
            "requests_s": _spread(self.rate),
            "ttft_added_p50_us": round(statistics.median(self.first) - base_first, 1),
            "ttft_added_p99_us": round(percentile(self.first, 0.99) - base_first, 1),
            "chunk_added_p50_us": round(statistics.median(self.later) - base_later, 1),
            **{name: round(value, 1) for name, value in self.memory.items()},
        }


def warm_up(arm: Arm, seen: Seen) -> None:
    """Enough requests that connections stand and code is loaded; then the memory of the idle front."""
    where, request = ask(arm.url, arm.headers, stream=False)
    _whole(arm, run(requests(where, request, total=_fewer(arm, 1280), at_once=IN_FLIGHT)))
    where, request = ask(arm.url, arm.headers, stream=True)
    _whole(arm, check(run(streams(where, request, at_once=STREAMS)), STANDARD.tokens))
    _settle(arm, arm.processes())
    if arm.workers:
        seen.memory["rss_mb"] = max(memory_mb([pid]) for pid in arm.workers)
    if arm.pids:
        seen.memory["rss_total_mb"] = memory_mb(arm.processes())
        seen.memory["pss_total_mb"] = memory_mb(arm.processes(), "Pss")


def one_round(arm: Arm, plan: Plan, seen: Seen, others: Mapping[str, tuple[int, dict[str, list[float]]]]) -> None:
    """One round of one front. `others`: name → (process id, where its own CPU a request and a chunk is noted)."""
    pids = arm.processes()
    total = _fewer(arm, plan.requests)
    where, request = ask(arm.url, arm.headers, stream=False)
    began, before, aside = time.monotonic(), (cpu_ns(pids), cpu_ns(arm.workers)), _now(others)
    _whole(arm, run(requests(where, request, total=total, at_once=IN_FLIGHT)))
    seen.rate.append(total / (time.monotonic() - began))
    _note(others, aside, "request", total)
    _settle(arm, pids)
    seen.cpu_request.append((cpu_ns(pids) - before[0]) / 1e3 / total)
    if arm.workers:
        seen.worker_request.append((cpu_ns(arm.workers) - before[1]) / 1e3 / total)

    times = 1 if arm.slow else plan.streams
    where, request = ask(arm.url, arm.headers, stream=True)
    before, aside = (cpu_ns(pids), cpu_ns(arm.workers)), _now(others)
    raws = run(streams(where, request, at_once=STREAMS, times=times))
    chunks = len(raws) * STANDARD.tokens
    _note(others, aside, "chunk", chunks)
    _settle(arm, pids)
    seen.cpu_chunk.append((cpu_ns(pids) - before[0]) / 1e3 / chunks)
    if arm.workers:
        seen.worker_chunk.append((cpu_ns(arm.workers) - before[1]) / 1e3 / chunks)
    _whole(arm, check(raws, STANDARD.tokens))

    where, request = ask(arm.url, arm.headers, stream=True, null=_SHORT)
    lags = run(paced(where, request, times=max(8, plan.paced // 4) if arm.slow else plan.paced))
    seen.first += lags.first
    seen.later += lags.later


def crowd(arm: Arm, count: int = 1000) -> dict[str, Any]:
    """`count` streams at the same time: how many came whole, and how many were open at once."""
    table = {"ttft_ms": 1000, "itl_ms": 100, "tokens": 16}
    where, request = ask(arm.url, arm.headers, stream=True, null=table)
    began = time.monotonic()
    raws = run(streams(where, request, at_once=count, timeout_s=20))
    took = time.monotonic() - began
    tally = check(raws, 16)
    edges = sorted([(raw.t_send, 1) for raw in raws] + [(raw.t_close, -1) for raw in raws])
    open_now = most = 0
    for _, step in edges:
        open_now += step
        most = max(most, open_now)
    return {"ok": tally.ok, "errors": tally.errors, "why": tally.why, "open_at_once": most, "seconds": round(took, 2)}


def soak(arm: Arm, total: int, blocks: int = 20) -> dict[str, Any]:
    """`total` whole answers in blocks, each on new connections; how memory grew after the first block."""
    where, request = ask(arm.url, arm.headers, stream=False)
    share = max(IN_FLIGHT, total // blocks)
    sizes, workers, ok, errors, busy = list[float](), list[float](), 0, 0, 0.0
    before = cpu_ns(arm.processes())
    while ok + errors < total:
        count = min(share, total - ok - errors)
        began = time.monotonic()
        tally = run(requests(where, request, total=count, at_once=IN_FLIGHT, timeout_s=60 + count / 100))
        busy += time.monotonic() - began
        ok, errors = ok + tally.ok, errors + tally.errors
        _settle(arm, arm.processes())
        sizes.append(memory_mb(arm.processes()))
        workers.append(memory_mb(arm.workers))
    return {
        "requests": total,
        "ok": ok,
        "errors": errors,
        "connections": IN_FLIGHT * len(sizes),
        "requests_s": round(ok / busy, 1),
        "cpu_us_request": round((cpu_ns(arm.processes()) - before) / 1e3 / total, 1),
        **_growth("rss", workers),
        **_growth("rss_total", sizes),
    }


def _growth(what: str, sizes: list[float]) -> dict[str, Any]:
    """Sizes after each block, and how much more the last is than the first and the middle one."""
    return {
        f"{what}_mb": [round(size, 2) for size in sizes],
        f"{what}_growth_mb": round(sizes[-1] - sizes[0], 2),
        f"{what}_growth_second_half_mb": round(sizes[-1] - sizes[len(sizes) // 2], 2),
    }


def _fewer(arm: Arm, count: int) -> int:
    return max(IN_FLIGHT, count // _SLOWER) if arm.slow else count


def _whole(arm: Arm, tally: Tally) -> None:
    if tally.errors:
        raise RuntimeError(f"{arm.name}: {tally.errors} of {tally.total} requests failed: {tally.why}")


def _settle(arm: Arm, pids: list[int]) -> None:
    """Wait until what was put off (records written in batches) is done, so that its CPU is counted too."""
    if not pids:
        return
    deadline = time.monotonic() + 3
    time.sleep(arm.settle_s)
    before = cpu_ns(pids)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = cpu_ns(pids)
        if now - before < 2_000_000:
            return
        before = now


def _now(others: Mapping[str, tuple[int, dict[str, list[float]]]]) -> dict[str, int]:
    return {name: cpu_ns([pid]) for name, (pid, _) in others.items()}


def _note(
    others: Mapping[str, tuple[int, dict[str, list[float]]]], before: Mapping[str, int], what: str, count: int
) -> None:
    for name, (pid, notes) in others.items():
        notes.setdefault(what, []).append((cpu_ns([pid]) - before[name]) / 1e3 / count)


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}
