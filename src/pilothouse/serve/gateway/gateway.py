"""The gateway itself: listens, checks keys and limits, and answers each path."""

from __future__ import annotations

import asyncio
import time
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.auth import Access, loopback
from pilothouse.serve.gateway.call import new_id
from pilothouse.serve.gateway.calls import Calls
from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import Connection, Reply, Request
from pilothouse.serve.gateway.limits import Key
from pilothouse.serve.gateway.metrics import Metrics
from pilothouse.serve.gateway.proxy import pass_on
from pilothouse.serve.gateway.record import Recorder
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.gateway.upstream import Pool, UpstreamFault
from pilothouse.serve.ports import unusable

if TYPE_CHECKING:
    import ssl

_BACKLOG = 2048
"""Connections that may wait to be taken: with uvloop's 100, a burst of 200 waits a second for TCP to try again."""
_LOOK_S = 1.0


class Gateway:
    """One listening front over a fleet. proxy: the console's unix socket."""

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings | None = None,
        *,
        recorder: Recorder | None = None,
        proxy: str | None = None,
    ) -> None:
        self.fleet, self._recorder, self._proxy = fleet, recorder, proxy
        self._shared = fleet.shared
        self._pool = Pool()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._created = int(time.time())
        self._closed = False
        self._dialects: dict[str, Dialect] = {}
        for name in registry.modules("dialects"):
            dialect: Dialect = registry.create("dialects", name)
            self._dialects[dialect.path] = dialect
        self.configure(settings or Settings())

    def configure(self, settings: Settings) -> None:
        """Settings for the requests from now on; those under way keep theirs."""
        self.settings = settings
        self._access = Access(settings.keys, closed=self._closed)
        self._closed = self._access.keyed
        self._pool.patience = settings.patience
        policy = settings.policy
        self.metrics = Metrics(self._shared, self.fleet, [r.rule.detector for r in policy.rules] if policy else ())
        self._calls = Calls(self.fleet, settings, self._pool, self.metrics, self._recorder)

    async def start(
        self,
        host: str,
        port: int,
        *,
        public: bool = False,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = False,
    ) -> int:
        """Listen; returns the port. Beyond loopback only when `public` and with keys."""
        if not loopback(host):
            if not public:
                raise UserError(f"{host!r} is not a loopback address", fix="Set serve.public: true to allow it.")
            if not self._access.keyed:
                raise UserError("a public gateway needs keys", fix="Add one: pilothouse keys add NAME.")
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._handle, self.settings.body_limit, self._connections),
                host,
                port,
                backlog=_BACKLOG,
                ssl=tls,
                reuse_port=reuse_port or None,
            )
        except OSError as e:
            raise unusable(host, port, e) from None
        self._timer = loop.call_later(_LOOK_S, self._look)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, drain_s: float = 10.0) -> None:
        """No new connections; answers in flight get drain_s, then are cut."""
        if self._server is not None:
            self._server.close()
        deadline = monotonic() + drain_s
        while any(c.busy for c in self._connections) and monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._calls.close()
        self._pool.close()

    def _look(self) -> None:
        """Clients that are too slow in asking or in reading."""
        now = monotonic()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.overdue()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    async def _handle(self, request: Request, reply: Reply) -> None:
        dialect = self._dialects.get(request.path)
        if request.path == "/v1/messages":
            reply.id_header = "request-id"  # where Anthropic's clients look for it
        try:
            if dialect is not None:
                key = self._access.caller(request)
                _method(request, "POST")
                await self._calls.answer(dialect, request, key, reply)
            else:
                await self._route(request, reply)
        except ApiError as e:
            self._say(e, dialect, reply)
        except RecursionError:
            self._say(ApiError(400, "invalid_request", "the body is nested too deeply"), dialect, reply)
        except Exception as e:
            self._say(ApiError(500, "internal_error", f"the gateway failed ({type(e).__name__})"), dialect, reply)
            raise

    def _say(self, error: ApiError, dialect: Dialect | None, reply: Reply) -> None:
        """An error in the form that was asked in; behind an answer that has begun only its end can say so."""
        if reply.started:
            reply.cut()
            return
        if not reply.request_id:  # no call was made of it
            self.metrics.request(sh.MODELS - 1, error.status)
            reply.request_id = new_id()
        body = dialect.error(error, reply.request_id) if dialect is not None else error.encoded()
        reply.send(error.status, body, **error.headers)

    async def _route(self, request: Request, reply: Reply) -> None:
        path = request.path
        if path in ("/healthz", "/metrics", "/openapi.json"):
            _method(request, "GET")
        if path == "/healthz":
            self._health(reply)
        elif path == "/metrics":
            self._access.figures(request, local=reply.local)
            reply.send(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/openapi.json":
            from pilothouse.serve.gateway.openapi import document

            reply.send(200, msgspec.json.encode(document(self.fleet.models, keyed=self._access.keyed)))
        elif path.startswith("/v1/"):
            await self._api(path, request, reply)
        elif self._proxy is not None:
            self._access.page(request)
            try:
                await pass_on(self._pool, self._proxy, request, reply)
            except UpstreamFault as e:
                raise ApiError(502, "console_unavailable", f"the console does not answer: {e}") from None
        else:
            raise ApiError(404, "not_found", f"there is no {path} here")

    async def _api(self, path: str, request: Request, reply: Reply) -> None:
        """Paths of the API that ask no model."""
        key = self._access.caller(request)
        allowed = {"/v1/models": "GET", "/v1/usage": "GET", "/v1/feedback": "POST"}.get(path)
        if allowed is None:
            raise ApiError(404, "not_found", f"there is no {path} here")
        _method(request, allowed)
        if path == "/v1/models":
            self._models(key, reply)
        elif path == "/v1/usage":
            limits = ("requests_per_minute", "tokens_per_minute", "concurrency", "budget", "models", "expires")
            said: dict[str, Any] = {"key": key.name, "since_start": self._calls.limits.used(key)}
            said |= {"spent_this_month": self._calls.limits.spent(key), "limits": {n: getattr(key, n) for n in limits}}
            reply.send(200, msgspec.json.encode(said))
        else:
            await self._feedback(request, reply)

    def _health(self, reply: Reply) -> None:
        members = [m for m in self.fleet.members if m.role != "shadow"]
        ready = self.fleet.any_ready()
        body: dict[str, Any] = {"status": "ok" if ready else "unavailable", "models": self.fleet.models}
        body["engine"] = {"ready": ready, "restarts": sum(m.restarts for m in members)}
        failure = next((m.failure for m in members if m.failure and not m.ready), "")
        if failure and not ready:
            body["engine"]["failure"] = failure
        body["engines"] = [
            {"name": m.name, "role": m.role, "ready": m.ready, "restarts": m.restarts, "failure": m.failure}
            for m in self.fleet.members
        ]
        reply.send(200 if ready else 503, msgspec.json.encode(body))

    def _models(self, key: Key, reply: Reply) -> None:
        fleet, data = self.fleet, []
        for name in fleet.models:
            if not key.models or name in key.models:
                release = fleet.members[fleet.serving(name)[0]].models[name].release
                data.append({"id": name, "object": "model", "created": self._created, "owned_by": "pilothouse"})
                data[-1]["release"] = release
        reply.send(200, msgspec.json.encode({"object": "list", "data": data}))

    async def _feedback(self, request: Request, reply: Reply) -> None:
        recorder = self._recorder
        if recorder is None:
            raise ApiError(404, "not_found", "this gateway records no exchanges")
        try:
            body = msgspec.json.decode(request.body, type=dict[str, str])
            exchange, kind, value = body["exchange"], body["kind"], body["value"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            raise ApiError(400, "invalid_request", "give exchange, kind and value as text") from None
        if kind not in ("thumb", "edit", "comment"):
            raise ApiError(400, "invalid_request", f"kind must be thumb, edit or comment, got {kind!r}")
        if not await recorder.feedback(exchange, kind, value):
            raise ApiError(404, "exchange_not_found", f"there is no exchange {exchange!r}")
        reply.send(200, b'{"status":"kept"}')


def _method(request: Request, allowed: str) -> None:
    if request.method != allowed and (request.method, allowed) != ("HEAD", "GET"):
        error = ApiError(405, "method_not_allowed", f"{request.path} takes {allowed}")
        error.headers["allow"] = allowed
        raise error
