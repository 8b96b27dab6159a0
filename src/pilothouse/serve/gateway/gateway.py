"""The gateway itself: listens, checks keys, finds the route, and answers each path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core.errors import UserError
from pilothouse.core.wire import Target, target
from pilothouse.serve.gateway import chat
from pilothouse.serve.gateway.answer import GUARD_HEADER, StreamedAnswer, WholeAnswer, event
from pilothouse.serve.gateway.auth import Access, loopback
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import Connection, Reply, Request
from pilothouse.serve.gateway.metrics import Metrics
from pilothouse.serve.gateway.proxy import pass_on
from pilothouse.serve.gateway.record import Recorder
from pilothouse.serve.gateway.routes import Backend, Route
from pilothouse.serve.gateway.upstream import Patience, Pool, UpstreamFault
from pilothouse.serve.ports import unusable

if TYPE_CHECKING:
    from pilothouse.guard.policy import InputDecision, Policy

_WAIT_READY_S = 15.0
_AT_ONCE_S = 0.5
_BACKLOG = 1024
"""Connections that may wait to be taken: with uvloop's 100, a burst of 200 waits a second for TCP to try again."""
_INLINE_CHARS = 2_000  # about 4 ms of guard at most


class Gateway:
    """One listening front. keys: caller's name → key ({}: no key is asked for, loopback only)."""

    def __init__(
        self,
        backend: Backend,
        routes: Mapping[str, Route],
        *,
        policy: Policy | None = None,
        keys: Mapping[str, str] | None = None,
        recorder: Recorder | None = None,
        proxy: str | None = None,
        body_limit: int = 1 << 20,
        patience: Patience | None = None,
    ) -> None:
        self._backend, self._routes, self._policy = backend, routes, policy
        self._access, self._keyed = Access(keys or {}), bool(keys)
        self._slow_guard = policy is not None and any(r.detector.cost in ("model", "judge") for r in policy.rules)
        self._recorder, self._proxy, self._limit = recorder, proxy, body_limit
        self._pool, self.metrics = Pool(patience), Metrics()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._created = int(time.time())
        self._engine = ("", Target("", 0, False, ""))

    async def start(self, host: str, port: int, *, public: bool = False) -> int:
        """Listen; returns the port. Beyond loopback only when `public` and with keys."""
        if not loopback(host):
            if not public:
                raise UserError(f"{host!r} is not a loopback address", fix="Set serve.public: true to allow it.")
            if not self._keyed:
                raise UserError("a public gateway needs keys", fix="Set serve.keys_env in pilothouse.yaml.")
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._handle, self._limit, self._connections),
                host,
                port,
                backlog=_BACKLOG,
            )
        except OSError as e:
            raise unusable(host, port, e) from None
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, drain_s: float = 10.0) -> None:
        """No new connections; answers in flight get drain_s, then are cut."""
        if self._server is not None:
            self._server.close()
        deadline = time.monotonic() + drain_s
        while any(c.busy for c in self._connections) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._pool.close()

    async def _handle(self, request: Request, reply: Reply) -> None:
        try:
            await self._route(request, reply)
        except ApiError as e:
            reply.send(e.status, e.encoded(), **e.headers)
        except Exception as e:
            if reply.started:
                reply.cut()
            else:
                reply.send(500, ApiError(500, "internal_error", f"the gateway failed ({type(e).__name__})").encoded())
            raise

    async def _route(self, request: Request, reply: Reply) -> None:
        path = request.path
        if path == "/healthz":
            self._health(reply)
        elif path == "/metrics":
            self._access.figures(request)
            m = self.metrics
            m.restarts.set(self._backend.restarts)
            m.ready.set(self._backend.ready.is_set())
            m.dropped.set(self._recorder.dropped if self._recorder else 0)
            reply.send(200, m.text(), "text/plain; version=0.0.4; charset=utf-8")
        elif path.startswith("/v1/"):
            caller = self._access.caller(request)
            allowed = {"/v1/chat/completions": "POST", "/v1/models": "GET", "/v1/feedback": "POST"}.get(path)
            if allowed is None:
                raise ApiError(404, "not_found", f"there is no {path} here")
            if request.method != allowed:
                raise ApiError(405, "method_not_allowed", f"{path} takes {allowed}")
            if path == "/v1/models":
                self._models(reply)
            elif path == "/v1/feedback":
                await self._feedback(request, reply)
            else:
                await self._chat(request, reply, caller)
        elif self._proxy is not None:
            self._access.page(request)
            try:
                await pass_on(self._pool, self._proxy, request, reply)
            except UpstreamFault as e:
                raise ApiError(502, "console_unavailable", f"the console does not answer: {e}") from None
        else:
            raise ApiError(404, "not_found", f"there is no {path} here")

    def _health(self, reply: Reply) -> None:
        ready = self._backend.ready.is_set()
        body: dict[str, Any] = {"status": "ok" if ready else "unavailable", "models": list(self._routes)}
        body["engine"] = {"ready": ready, "restarts": self._backend.restarts}
        if not ready and self._backend.failure:
            body["engine"]["failure"] = self._backend.failure
        reply.send(200 if ready else 503, msgspec.json.encode(body))

    def _models(self, reply: Reply) -> None:
        data = [
            {"id": n, "object": "model", "created": self._created, "owned_by": "pilothouse", "release": r.release}
            for n, r in self._routes.items()
        ]
        reply.send(200, msgspec.json.encode({"object": "list", "data": data}))

    async def _feedback(self, request: Request, reply: Reply) -> None:
        recorder = self._recorder
        if recorder is None:
            raise ApiError(404, "not_found", "this gateway records no exchanges")
        try:
            body = msgspec.json.decode(request.body, type=dict[str, str])
            exchange, kind, value = body["exchange"], body["kind"], body["value"]
        except (msgspec.DecodeError, KeyError):
            raise ApiError(400, "invalid_request", "give exchange, kind and value as text") from None
        if kind not in ("thumb", "edit", "comment"):
            raise ApiError(400, "invalid_request", f"kind must be thumb, edit or comment, got {kind!r}")
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(None, recorder.feedback, exchange, kind, value):
            raise ApiError(404, "exchange_not_found", f"there is no exchange {exchange!r}")
        reply.send(200, b'{"status":"kept"}')

    async def _chat(self, request: Request, reply: Reply, caller: str) -> None:
        body, route = chat.parse(request.body, self._routes)
        recorded = self._recorder is not None
        ledger = chat.Ledger(body, route, caller, guarded=self._policy is not None, keeps_text=recorded)
        reply.request_id = ledger.id
        self.metrics.in_flight.inc()
        try:
            await self._answer(body, route, ledger, reply)
        except ApiError as e:
            reply.status = e.status
            raise
        except asyncio.CancelledError:
            reply.status = 499  # the client left; nginx's word for it
            raise
        finally:
            self.metrics.in_flight.dec()
            self._count(ledger, reply.status or 500)

    async def _answer(self, body: dict[str, Any], route: Route, ledger: chat.Ledger, reply: Reply) -> None:
        if self._policy is not None:
            began = time.perf_counter()
            found, unscanned = await self._check(self._policy, body)
            self.metrics.guard_seconds.observe(time.perf_counter() - began)
            ledger.note_input(found, unscanned)
            if found.action == "block":
                self._refuse(body, ledger, reply, found.findings, found.detector)
                return
        streamed = bool(body.get("stream"))
        answer = (StreamedAnswer if streamed else WholeAnswer)(reply, ledger, self._policy)
        try:
            await self._ask(body, route, answer)
            answer.finish()
        except UpstreamFault as fault:
            status, code = (504, "engine_timeout") if fault.late else (502, "engine_failed")
            if isinstance(answer, StreamedAnswer) and reply.started:
                answer.fail(code, str(fault))
                reply.status = status
                return
            raise ApiError(status, code, f"{fault}; try again", retry_after_s=1) from None
        finally:
            if isinstance(answer, StreamedAnswer):
                answer.note()

    async def _check(self, policy: Policy, body: dict[str, Any]) -> tuple[InputDecision, tuple[str, ...]]:
        """The input guard; a long text or a slow detector in a thread, so that nobody else's tokens wait for it."""
        places, _ = chat.texts(body["messages"])
        if not self._slow_guard and sum(len(holder[key]) for holder, key in places) <= _INLINE_CHARS:
            return chat.guard_input(policy, body)
        return await asyncio.to_thread(chat.guard_input, policy, body)

    async def _ask(self, body: dict[str, Any], route: Route, answer: StreamedAnswer | WholeAnswer) -> None:
        """Send it to the engine. A refused connection was never sent: an engine that restarts is waited for.

        So is one that hangs up at once, once: a dying process still takes connections until the kernel has cleared it.
        """
        deadline, hung_up = time.monotonic() + _WAIT_READY_S, False
        while True:
            address = await self._ready()
            data = chat.upstream_request(body, route, self._backend, address)
            sent = time.monotonic()
            try:
                return await self._pool.exchange(address, data, answer.on_head, answer.on_body)
            except UpstreamFault as fault:
                now = time.monotonic()
                dying = fault.empty and not hung_up and now - sent < _AT_ONCE_S
                if not (fault.refused or dying) or now > deadline:
                    raise
                hung_up |= dying
                await asyncio.sleep(0.1)

    async def _ready(self) -> Target:
        """The engine's address once it answers: a restart is waited for a while, then it is 503."""
        try:
            async with asyncio.timeout(_WAIT_READY_S):
                await self._backend.ready.wait()
        except TimeoutError:
            why = self._backend.failure or "it is still starting"
            raise ApiError(503, "engine_unavailable", f"no engine answers: {why}", retry_after_s=5) from None
        if self._engine[0] != self._backend.url:  # another port after a restart
            self._engine = (self._backend.url, target(self._backend.url))
        return self._engine[1]

    def _refuse(self, body: dict[str, Any], ledger: chat.Ledger, reply: Reply, findings: Any, detector: str) -> None:
        """The input guard's no: a complete, well-formed answer; the engine never sees the request."""
        assert self._policy is not None
        finding = next((f for f in findings if f.action == "block"), None)
        streamed = bool(body.get("stream"))
        answer = chat.refusal(body, self._policy.refusal, ledger.id, finding, detector, stream=streamed)
        ledger.answer.append(self._policy.refusal)
        guard = {GUARD_HEADER: answer["pilothouse"]["guard"]}
        if streamed:
            reply.begin(200, **guard)
            reply.write(event(answer) + b"data: [DONE]\n\n")
            reply.end()
        else:
            reply.send(200, msgspec.json.encode(answer), **guard)

    def _count(self, ledger: chat.Ledger, status: int) -> None:
        m, exchange = self.metrics, ledger.exchange(status)
        m.requests.labels(exchange.model, str(status)).inc()
        if exchange.ttft_ms is not None:
            m.ttft.labels(exchange.model).observe(exchange.ttft_ms / 1e3)
        m.latency.labels(exchange.model).observe((exchange.latency_ms or 0) / 1e3)
        m.tokens.labels(exchange.model, "input").inc(exchange.tokens_in or 0)
        m.tokens.labels(exchange.model, "output").inc(exchange.tokens_out or 0)
        detector = next((f.detector for f in exchange.findings if f.action == "block"), "")
        m.guard.labels(exchange.guard, detector).inc()
        if self._recorder is not None:
            with suppress(Exception):  # a record must never cost an answer
                self._recorder.record(exchange)
