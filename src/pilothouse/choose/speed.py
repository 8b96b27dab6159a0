"""How fast can it be at best? Each token reads the weights once: bytes over memory bandwidth bound the time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pilothouse.choose.base import Facts, Speed
from pilothouse.choose.fit import kv_bytes, weight_bytes
from pilothouse.core.machine import cores
from pilothouse.core.records import Measure

_ARRAY = 96 << 20  # bytes in all, three quarters read from and written to outside any cache we have met
_SECONDS = 0.4


def bandwidth(*, seconds: float = _SECONDS) -> Measure:
    """Memory bandwidth of this machine in GB/s: the best of repeated array copies on every core, read + written bytes.

    The best, because the figure bounds what is possible; a copy disturbed by a neighbour says nothing of that. low and
    high are the least and the greatest copy seen.
    """
    count = cores()
    each = _ARRAY // count // 8
    pairs = [(np.ones(each), np.zeros(each)) for _ in range(count)]
    rates: list[float] = []
    with ThreadPoolExecutor(count) as pool:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or len(rates) < 3:
            start = time.perf_counter()
            # numpy's copy releases the interpreter's lock, so the cores copy side by side.
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            rates.append(2 * 8 * each * count / (time.perf_counter() - start) / 1e9)
    method = f"best of {len(rates)} copies of {_ARRAY >> 20} MiB on {count} core(s); interval: least and greatest copy"
    return Measure(
        "choose.bandwidth", max(rates), "GB/s", min(rates), max(rates), len(rates), method, label="memory bandwidth"
    )


def bound(facts: Facts, *, context: int, streams: int, bytes_per_second: float) -> Speed | None:
    """The least time per output token (FACTS 5, decode step, memory term): (weights touched + KV read) / bandwidth.

    Touched: all weights but an input embedding of its own, of which one row is read. None for a shape not known.
    """
    shape = facts.shape
    if shape is None:
        return None
    idle = 0 if shape.tied else shape.vocabulary * shape.hidden
    weights = weight_bytes(facts.parameters - idle)
    full = weights + streams * kv_bytes(shape, context)
    return Speed(weights / bytes_per_second * 1e3, full / bytes_per_second * 1e3)
