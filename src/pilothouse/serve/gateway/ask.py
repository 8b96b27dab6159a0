"""From an admitted request to its answer: choose an engine, send, and while nothing has gone out, try again elsewhere.

What may be sent again: a request that no engine took (connection refused), one whose engine hung up or failed (5xx,
429) before a token, each at another engine; at the same engine only when it is being restarted. Nothing is asked again
once a token is on its way to the caller.
"""

from __future__ import annotations

import asyncio
from copy import copy
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve.gateway.call import Call
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.hedge import race
from pilothouse.serve.gateway.routing.choose import Chooser
from pilothouse.serve.gateway.routing.fleet import Fleet, Member
from pilothouse.serve.gateway.translated import Translated
from pilothouse.serve.gateway.upstream import Answer, Pool, Sink, UpstreamFault

_AT_ONCE_S = 0.5
_AGAIN_S = 0.1
_ATTEMPTS = 3
_SHADOWS = 8
"""Copies under way at a time; beyond that, none is made: a shadow must never slow what it shadows."""


@dataclass(frozen=True, slots=True)
class Tries:
    """wait_ready_s: how long an engine that restarts is waited for. hedge_s: after so long without a byte, a second
    engine is asked too (None: never)."""

    wait_ready_s: float = 15.0
    hedge_s: float | None = None


class Asker:
    """Sends calls to the fleet."""

    def __init__(self, fleet: Fleet, pool: Pool, tries: Tries) -> None:
        self._fleet, self._pool, self._tries = fleet, pool, tries
        self._chooser = Chooser(fleet)
        self._heads: dict[tuple[str, str, str], bytes] = {}
        self._hedges = tries.hedge_s is not None
        self._engines: dict[str, Any] = {}
        self._shadows: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call, path: str, answer: Answer) -> None:
        """Return when the answer is whole (not yet finished); UpstreamFault or ApiError when there will be none."""
        deadline = monotonic() + self._tries.wait_ready_s
        tried: tuple[int, ...] = ()
        hung_up, attempts, last = False, 0, None
        while True:
            place = self._chooser.choose(call.model, call.prompt, call.tokens, call.session, tried)
            if place < 0:
                if not tried or last is None:
                    await self._ready(deadline)
                elif last.refused and monotonic() < deadline:
                    tried = ()  # all refused the connection: one of them may be back in a moment
                    await asyncio.sleep(_AGAIN_S)
                else:
                    raise last
                continue
            attempts += 1
            sent = monotonic()
            try:
                if self._hedges and len(self._fleet.serving(call.model)) > 1:
                    await self._hedged(call, path, answer, place, tried)
                else:
                    await self._once(call, path, answer, place)
            except UpstreamFault as fault:
                if answer.begun or fault.late or (attempts >= _ATTEMPTS and not fault.refused):
                    raise
                last = fault
                alone = len(self._fleet.serving(call.model)) == 1
                if alone:
                    # A dying process still takes connections until the kernel has cleared it.
                    dying = fault.empty and not hung_up and monotonic() - sent < _AT_ONCE_S
                    if not (fault.refused or dying) or monotonic() > deadline:
                        raise
                    hung_up |= dying
                    await asyncio.sleep(_AGAIN_S)
                else:
                    tried = (*tried, place)
                continue
            if answer.status >= 500 or answer.status == 429:
                others = self._chooser.choose(call.model, call.prompt, call.tokens, call.session, (*tried, place))
                if others >= 0 and attempts < _ATTEMPTS:
                    tried, last = (*tried, place), UpstreamFault(f"the engine said {answer.status}")
                    continue
            return

    def shadow(self, call: Call, path: str) -> None:
        """Send copies to the members that only watch; nobody waits for them or sees their answers."""
        for place in self._fleet.shadows(call.model):
            if len(self._shadows) < _SHADOWS:
                task = asyncio.get_running_loop().create_task(self._copy(call, path, place))
                self._shadows.add(task)
                task.add_done_callback(self._shadows.discard)

    def close(self) -> None:
        """No more copies."""
        for task in self._shadows:
            task.cancel()

    async def _once(self, call: Call, path: str, sink: Sink, place: int) -> None:
        fleet = self._fleet
        member, to, circuit = fleet.members[place], fleet.targets[place], fleet.circuits[place]
        fleet.begin(place, call.tokens)
        circuit.trying()
        try:
            data = self._request(call, path, member, place)
            answers = getattr(self._engine(member), "answers", None) if member.rewrites else None
            if answers is not None:
                sink = Translated(sink, answers(call.model, call.body))
            connection = self._pool.kept(to)
            while True:
                fresh = connection is None
                if connection is None:
                    connection = await self._pool.connect(to)
                call.sent, call.backend = monotonic(), member.name
                try:
                    await self._pool.ask(connection, to, data, sink)
                    if isinstance(sink, Translated):
                        sink.end()
                except UpstreamFault as fault:
                    if not fault.stale or fresh:
                        raise
                    connection = None
                    continue
                break
        except UpstreamFault:
            circuit.failed()
            raise
        finally:
            fleet.end(place, call.tokens)
        if getattr(sink, "status", 200) >= 500:
            circuit.failed()
        else:
            circuit.succeeded()

    async def _hedged(self, call: Call, path: str, answer: Answer, place: int, tried: tuple[int, ...]) -> None:
        """A second engine is asked when the first is silent for too long; who speaks first answers."""
        assert self._tries.hedge_s is not None

        def first(sink: Sink) -> Any:
            return self._once(call, path, sink, place)

        again = copy(call)  # who is asked second does not change what is known of the first

        def second(sink: Sink) -> Any:
            other = self._chooser.choose(call.model, call.prompt, call.tokens, "", (*tried, place))
            return self._once(again, path, sink, other) if other >= 0 else None

        def second_wins() -> None:
            call.sent, call.backend, call.release = again.sent, again.backend, again.release

        await race(first, second, answer, self._tries.hedge_s, second_wins)

    def _request(self, call: Call, path: str, member: Member, place: int) -> bytes:
        """The bytes for the engine: its own model name, the adapter, the default system prompt; usage always asked."""
        served = member.models[call.model]
        call.release = served.release
        body = {**call.body, **served.fields}
        said = body.get("messages")
        if served.system_prompt and said and not any(m["role"] in ("system", "developer") for m in said):
            body["messages"] = [{"role": "system", "content": served.system_prompt}, *said]
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if member.rewrites:
            body = self._rewrite(member, body)
        content = msgspec.json.encode(body)
        head = self._heads.get((member.url, member.key, path))
        if head is None:
            to = self._fleet.targets[place]
            key = f"Authorization: Bearer {member.key}\r\n" if member.key else ""
            head = (
                f"POST {to.path}{path} HTTP/1.1\r\nHost: {to.authority}\r\n{key}"
                "Content-Type: application/json\r\nContent-Length: "
            ).encode()
            if len(self._heads) > 1024:  # engines that restart leave addresses behind
                self._heads.clear()
            self._heads[member.url, member.key, path] = head
        trace = b"traceparent: %b\r\n" % _parent(call) if call.span else b""
        return b"%b%d\r\n%b\r\n%b" % (head, len(content), trace, content)

    def _engine(self, member: Member) -> Any:
        engine = self._engines.get(member.engine)
        if engine is None:
            engine = self._engines[member.engine] = registry.create("engines", member.engine)
        return engine

    def _rewrite(self, member: Member, body: dict[str, Any]) -> dict[str, Any]:
        try:
            changed: dict[str, Any] = self._engine(member).rewrite(body)
        except UserError as e:
            raise ApiError(400, "unsupported_value", e.line()) from None
        return changed

    async def _ready(self, deadline: float) -> None:
        """Wait for an engine: a restart is waited for a while, then it is 503."""
        if self._fleet.any_ready():
            raise ApiError(503, "engine_unavailable", "every engine keeps failing; they are let rest", retry_after_s=1)
        left = deadline - monotonic()
        if left <= 0 or not await self._fleet.changed(left):
            why = next((m.failure for m in self._fleet.members if m.failure), "it is still starting")
            raise ApiError(503, "engine_unavailable", f"no engine answers: {why}", retry_after_s=5)

    async def _copy(self, call: Call, path: str, place: int) -> None:
        shown = Call("shadow", call.asked, call.key, monotonic())
        shown.body, shown.tokens = call.body, call.tokens
        try:
            await self._once(shown, path, _Unseen(), place)
        except (UpstreamFault, ApiError):
            return


class _Unseen:
    """Takes an answer that nobody wants."""

    status = 0

    def on_head(self, status: int, headers: dict[str, str], upstream: Any) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        """Nothing."""


def _parent(call: Call) -> bytes:
    """W3C Trace Context: the caller's trace and flags, our span."""
    version, trace, _, flags = call.trace.split("-")
    return f"{version}-{trace}-{call.span}-{flags}".encode()
