"""May this request go on now? A queue before the engines, so that a burst waits here and not in a busy engine.

Modes: `none` (engines queue by themselves), `queue` (wait here for a free stream), `slo` (refuse with 429 what would
begin later than the SLO's TTFT allows: served late it would miss, and make those behind it miss too). The wait is
foretold by Little's law: place in the queue × mean service time / streams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import ceil
from time import monotonic

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.routing.fleet import Fleet

_POLL_S = 0.01
"""How soon a stream freed by another process is seen; one's own are seen at once."""
_SMOOTH = 0.1


class _Queue:
    """Requests of models that the same members serve. granted: let in, but not yet counted as running."""

    def __init__(self, model: str) -> None:
        self.model, self.granted = model, 0
        self.waiting: deque[asyncio.Future[bool]] = deque()


class Admission:
    """A queue for each set of members that serve a model, in each process: who waits for one engine must not wait for
    another's. ttft_s: the SLO's bound; longest: requests that may wait here."""

    def __init__(
        self,
        fleet: Fleet,
        mode: str = "none",
        *,
        ttft_s: float | None = None,
        longest: int = 1024,
        wait_s: float = 60.0,
    ) -> None:
        self._fleet, self._mode, self._longest = fleet, mode, longest
        self._bound = ttft_s if mode == "slo" and ttft_s else None
        self._wait_s = wait_s
        self._queues: dict[tuple[int, ...], _Queue] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, model: str) -> float:
        """Returns the seconds waited; ApiError 429 when waiting is no use."""
        if self._mode == "none":
            return 0.0
        queue = self._queue(model)
        if not queue.waiting and self._free(queue) > 0:
            return 0.0
        began, foretold = monotonic(), self._foretold(model)
        if len(queue.waiting) >= self._longest or (self._bound is not None and foretold > self._bound):
            raise _full(foretold)
        loop, own = asyncio.get_running_loop(), self._fleet.shared.own
        future: asyncio.Future[bool] = loop.create_future()
        queue.waiting.append(future)
        own.add(0, sh.WAITING)
        timer = loop.call_later(self._bound or self._wait_s, _too_late, future)
        self._look_later()
        try:
            if not await future:
                raise self._late(model)
        finally:
            timer.cancel()
            own.add(0, sh.WAITING, -1.0)
            if future in queue.waiting:
                queue.waiting.remove(future)
            if future.done() and not future.cancelled() and future.result():
                queue.granted -= 1
        return monotonic() - began

    def left(self, model: str, service_s: float | None, ttft_s: float | None) -> None:
        """A request is over: learn from it (a failed one is no measure: None), let the next one in."""
        if self._mode == "none":
            return
        gauges = self._fleet.shared.gauges
        for column, value in ((sh.G_SERVICE, service_s), (sh.G_TTFT, ttft_s)):
            if value is not None:
                old = gauges.own(0, column)
                gauges.set(0, column, value if old == 0 else old + _SMOOTH * (value - old))
        self._let_in(self._queue(model))

    def _queue(self, model: str) -> _Queue:
        serving = self._fleet.serving(model)
        queue = self._queues.get(serving)
        if queue is None:
            queue = self._queues[serving] = _Queue(model)
        return queue

    def _late(self, model: str) -> ApiError:
        if not any(self._fleet.members[i].ready for i in self._fleet.serving(model)):
            return ApiError(503, "engine_unavailable", "no engine answers", retry_after_s=5)
        return _full(self._foretold(model))

    def _free(self, queue: _Queue) -> float:
        fleet = self._fleet
        ready = [i for i in fleet.serving(queue.model) if fleet.members[i].ready]
        able = [i for i in ready if fleet.members[i].role == "serve"] or ready
        running = sum(fleet.shared.members.total(i, sh.M_RUNNING) for i in able)
        return sum(fleet.members[i].capacity for i in able) - running - queue.granted

    def _foretold(self, model: str) -> float:
        """Seconds until a request that comes now would see its first token."""
        fleet, gauges = self._fleet, self._fleet.shared.gauges
        streams = sum(fleet.members[i].capacity for i in fleet.serving(model) if fleet.members[i].ready)
        before = fleet.shared.own.total(0, sh.WAITING) + 1.0
        return gauges.own(0, sh.G_TTFT) + before * gauges.own(0, sh.G_SERVICE) / max(streams, 1)

    def _let_in(self, queue: _Queue) -> None:
        free = self._free(queue) if queue.waiting else 0.0
        while queue.waiting and free > 0:
            future = queue.waiting.popleft()
            if not future.done():
                future.set_result(True)
                queue.granted += 1
                free -= 1

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_POLL_S, self._look)

    def _look(self) -> None:
        self._timer = None
        for queue in self._queues.values():
            self._let_in(queue)
        if any(queue.waiting for queue in self._queues.values()):
            self._look_later()


def _too_late(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def _full(foretold_s: float) -> ApiError:
    retry = max(1, ceil(foretold_s))
    what = f"all streams are busy; a first token is about {foretold_s:.1f} s away, later than the SLO allows"
    return ApiError(429, "overloaded", what, retry_after_s=retry)
