"""The load client: a process of its own that starts requests on an absolute schedule and notes what it reads.

Run as `python -m pilothouse.measure.send` by `load.py`: one JSON line (`Plan`) on stdin, the log in a file, a line on
stdout for each request that ended. It parses nothing beyond the end of an answer, collects no garbage while the load is
on, and ends when its stdin closes (its parent is gone).
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import time
from time import monotonic
from typing import BinaryIO

import msgspec

from pilothouse.core.client import run
from pilothouse.core.wire import Pool, exchange, target
from pilothouse.measure.log import Exchange, Head, Tail, entry

_START_AFTER_S = 0.1
_HEARTBEAT_S = 0.05
# uvloop's timers count whole milliseconds: the last stretch before a start is waited out by yielding.
_YIELD_S = 0.0015


class Plan(msgspec.Struct, frozen=True):
    """offsets[i] is when request number i starts; it sends requests[order[i]] (head and body, ready to write)."""

    url: str
    secret: str
    requests: tuple[bytes, ...]
    order: tuple[int, ...]
    offsets: tuple[float, ...]
    timeout_s: float
    log: str


async def send(plan: Plan, log: BinaryIO, out: BinaryIO) -> None:
    """Carry out the plan; each exchange is written when it ends."""
    pool = Pool(target(plan.url))
    zero = monotonic() + _START_AFTER_S
    encode = msgspec.json.encode

    def write(line: Head | Exchange | Tail) -> None:
        log.write(encode(line) + b"\n")

    async def one(i: int, at: float) -> None:
        raw = await exchange(pool, plan.requests[plan.order[i]], timeout_s=plan.timeout_s, t_sched=at)
        write(entry(i, plan.order[i], raw, plan.secret))
        out.write(b"%d\n" % (raw.status if not raw.fault else 0))
        out.flush()

    write(Head(zero, time.time() + zero - monotonic(), len(plan.offsets)))
    lags: list[float] = []
    heart = asyncio.ensure_future(_heartbeat(lags))
    running = []
    for i, offset in enumerate(plan.offsets):
        await _until(zero + offset)
        running.append(asyncio.ensure_future(one(i, zero + offset)))
    await asyncio.gather(*running)
    heart.cancel()
    write(Tail(tuple(round(lag * 1e3, 4) for lag in lags)))
    pool.close()


async def _until(moment: float) -> None:
    if (rest := moment - monotonic() - _YIELD_S) > 0:
        await asyncio.sleep(rest)
    while monotonic() < moment:
        await asyncio.sleep(0)


async def _heartbeat(lags: list[float]) -> None:
    while True:
        due = monotonic() + _HEARTBEAT_S
        await asyncio.sleep(_HEARTBEAT_S)
        lags.append(max(0.0, monotonic() - due))


async def _main(plan: Plan) -> None:
    asyncio.get_running_loop().add_reader(0, lambda: os._exit(1))
    with open(plan.log, "wb", buffering=1 << 16) as log:  # noqa: PTH123
        await send(plan, log, sys.stdout.buffer)


def main() -> None:
    """Entry of the process."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    gc.freeze()
    gc.disable()
    run(_main(plan))


if __name__ == "__main__":
    main()
