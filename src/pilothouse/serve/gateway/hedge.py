"""Two engines asked, one answer: the first that speaks is heard, the other is dropped before a caller sees either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pilothouse.serve.gateway.upstream import Answer, Sink, Upstream, UpstreamFault

Attempt = Callable[[Sink], "Coroutine[Any, Any, None] | None"]


class _Runner:
    """Keeps an engine's head until its first byte of body: some send the head before they have begun to think."""

    def __init__(self, track: _Track, chosen: Callable[[], None]) -> None:
        self._track, self._chosen = track, chosen
        self.status, self._headers, self._parts = 0, dict[str, str](), list[bytes]()
        self._upstream: Upstream | None = None

    def on_head(self, status: int, headers: dict[str, str], upstream: Upstream) -> None:
        self.status, self._headers, self._upstream = status, headers, upstream

    def on_body(self, data: bytes) -> None:
        if self._track.winner is None and self.status == 200:
            self.win()
        if self._track.winner is self:
            self._track.answer.on_body(data)
        elif self.status != 200:
            self._parts.append(data)

    def win(self) -> None:
        """This one is heard."""
        assert self._upstream is not None
        self._track.winner = self
        self._chosen()
        self._track.answer.on_head(self.status, self._headers, self._upstream)
        for part in self._parts:
            self._track.answer.on_body(part)
        self._track.decided.set()


class _Track:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.winner: _Runner | None = None
        self.decided = asyncio.Event()


async def race(
    first: Attempt, second: Attempt, answer: Answer, wait_s: float, second_wins: Callable[[], None] = lambda: None
) -> None:
    """Ask with `first`; after wait_s without a byte also with `second`. UpstreamFault when neither answers."""
    track = _Track(answer)
    runners = [_Runner(track, lambda: None)]
    begun = first(runners[0])
    assert begun is not None
    tasks = [asyncio.ensure_future(begun)]
    decided = asyncio.ensure_future(track.decided.wait())
    try:
        await asyncio.wait([*tasks, decided], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if track.winner is None and not tasks[0].done():
            runners.append(_Runner(track, second_wins))
            other = second(runners[1])
            if other is not None:
                tasks.append(asyncio.ensure_future(other))
        while track.winner is None and not all(t.done() for t in tasks):
            await asyncio.wait([*(t for t in tasks if not t.done()), decided], return_when=asyncio.FIRST_COMPLETED)
        for runner, task in zip(runners, tasks, strict=False):
            if track.winner not in (None, runner) and not task.done():
                task.cancel()
        if track.winner is not None:
            await tasks[runners.index(track.winner)]
            return
        faults = [e for t in tasks if (e := t.exception()) is not None]
        if len(faults) == len(tasks):
            raise faults[-1] if isinstance(faults[-1], UpstreamFault) else faults[0]
        next(r for r, t in zip(runners, tasks, strict=False) if t.exception() is None).win()  # an error, said whole
    finally:
        decided.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # the loser's fault is nobody's business any more
