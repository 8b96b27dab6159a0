"""The gateway itself: listens, checks keys and limits, and answers each path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.answer import GUARD_HEADER, StreamedAnswer, WholeAnswer, decision, refusal
from pilothouse.serve.gateway.ask import Answer, Asker, Tries
from pilothouse.serve.gateway.auth import Access, loopback
from pilothouse.serve.gateway.call import TOKENS_UNSAID, Call
from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import Connection, Reply, Request
from pilothouse.serve.gateway.limits import Key, Limits, Price
from pilothouse.serve.gateway.metrics import GENERATION, LATENCY, OVERHEAD, PROMPT, QUEUE, TPOT, TTFT, Metrics
from pilothouse.serve.gateway.proxy import pass_on
from pilothouse.serve.gateway.record import Recorder
from pilothouse.serve.gateway.relay import OVERHEAD_HEADER, RelayedAnswer, RelayedStream
from pilothouse.serve.gateway.routing.admission import Admission
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.upstream import Patience, Pool, UpstreamFault
from pilothouse.serve.ports import unusable

if TYPE_CHECKING:
    import ssl

    from pilothouse.guard.policy import InputDecision, Policy

_BACKLOG = 2048
"""Connections that may wait to be taken: with uvloop's 100, a burst of 200 waits a second for TCP to try again."""
_INLINE_CHARS = 2_000  # about 4 ms of guard at most
_LOOK_S = 1.0
_RELAYED = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class Settings:
    """What a gateway can be told, at its start and while it runs (`Gateway.configure`).

    keys: none, and only this machine's programs may ask. admission: `none`, `queue` or `slo` (ttft_s is its bound).
    traced: make a span id for every request.
    """

    policy: Policy | None = None
    keys: tuple[Key, ...] = ()
    body_limit: int = 1 << 20
    admission: str = "none"
    ttft_s: float | None = None
    price: Price = field(default_factory=Price)
    tries: Tries = field(default_factory=Tries)
    patience: Patience = field(default_factory=Patience)
    traced: bool = False


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
        self._dialects: dict[str, Dialect] = {}
        for name in registry.modules("dialects"):
            dialect: Dialect = registry.create("dialects", name)
            self._dialects[dialect.path] = dialect
        self.configure(settings or Settings())

    def configure(self, settings: Settings) -> None:
        """Settings for the requests from now on; those under way keep theirs."""
        self.settings = settings
        policy = settings.policy
        self._access = Access(settings.keys)
        self._limits = Limits(self._shared, settings.price)
        self._pool.patience = settings.patience
        self._asker = Asker(self.fleet, self._pool, settings.tries)
        self._admission = Admission(self.fleet, settings.admission, ttft_s=settings.ttft_s)
        self._slow_guard = policy is not None and any(r.detector.cost in ("model", "judge") for r in policy.rules)
        self.metrics = Metrics(self._shared, self.fleet, [r.rule.detector for r in policy.rules] if policy else ())

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
        self._asker.close()
        self._pool.close()

    def _look(self) -> None:
        """Clients that are too slow in asking or in reading."""
        now = monotonic()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.overdue()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    async def _handle(self, request: Request, reply: Reply) -> None:
        dialect = self._dialects.get(request.path)
        try:
            if dialect is not None:
                await self._ask(dialect, request, reply)
            else:
                await self._route(request, reply)
        except ApiError as e:
            if reply.started:
                reply.cut()
                return
            body = dialect.error(e, reply.request_id) if dialect is not None else e.encoded()
            overhead = str(int((monotonic() - request.at) * 1e6))
            reply.send(e.status, body, **{OVERHEAD_HEADER: overhead}, **e.headers)
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
            self._access.figures(request, local=reply.local)
            reply.send(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/openapi.json":
            from pilothouse.serve.gateway.openapi import document

            reply.send(200, msgspec.json.encode(document(self.fleet.models)))
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
            said: dict[str, Any] = {"key": key.name, "since_start": self._limits.used(key)}
            said |= {"spent_this_month": self._limits.spent(key), "limits": {n: getattr(key, n) for n in limits}}
            reply.send(200, msgspec.json.encode(said))
        else:
            await self._feedback(request, reply)

    def _health(self, reply: Reply) -> None:
        members = [m for m in self.fleet.members if m.role != "shadow"]
        ready = any(m.ready for m in members)
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

    # one request to a model

    async def _ask(self, dialect: Dialect, request: Request, reply: Reply) -> None:
        key = self._access.caller(request)
        _method(request, "POST")
        call = self._call(dialect, request, key)
        reply.request_id = call.id
        self._limits.enter(key, call.tokens)
        own = self._shared.own
        own.add(0, sh.IN_FLIGHT)
        try:
            await self._admitted(dialect, call, reply)
        except ApiError as e:
            reply.status = e.status
            raise
        except asyncio.CancelledError:
            reply.status = 499  # the client left; nginx's word for it
            raise
        finally:
            own.add(0, sh.IN_FLIGHT, -1.0)
            self._limits.leave(key, call.tokens, call.tokens_in or 0, call.tokens_out or 0)
            self._count(call, reply.status or 500)

    def _call(self, dialect: Dialect, request: Request, key: Key) -> Call:
        """The call that a request makes; ApiError for what no engine here could answer."""
        try:
            asked = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise ApiError(400, "invalid_json", f"the body is not valid JSON: {e}") from None
        if not isinstance(asked, dict):
            raise ApiError(400, "invalid_request", "the body must be a JSON object")
        model = asked.get("model")
        serving = self.fleet.serving(model) if isinstance(model, str) else ()
        if not serving:
            what = f"no model is called {model!r}; there are: {', '.join(self.fleet.models)}"
            raise ApiError(404, "model_not_found", what, param="model")
        if key.models and model not in key.models:
            raise ApiError(403, "model_not_allowed", f"this key may not ask {model!r}", param="model")
        body = dialect.request(asked)
        call = Call(dialect.path[4:].partition("/")[0], asked, key, request.at)
        call.body = body
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        answer = limit if isinstance(limit, int) else TOKENS_UNSAID
        call.tokens = len(request.body) // 4 + answer * (body.get("n") or 1)
        call.keeps_text = self._recorder is not None and self._recorder.keeps_text
        headers = request.headers
        session = headers.get("x-session-id") or asked.get("prompt_cache_key") or ""
        call.session = session if isinstance(session, str) else ""
        call.trace = headers.get("traceparent", "")
        if self.settings.traced or call.trace:
            call.span = f"{getrandbits(64):016x}"
            call.trace = call.trace or f"00-{getrandbits(128):032x}-{0:016x}-01"
        self._able(body, serving)
        return call

    def _able(self, body: dict[str, Any], serving: tuple[int, ...]) -> None:
        """What the engine cannot do is refused; dropped in silence it would look like an answer."""
        for i in serving:
            lacks = self.fleet.members[i].lacks
            if not lacks:
                continue
            for capability, fields in _ASKS.items():
                asked = next((f for f in fields if body.get(f)), None) if capability in lacks else None
                if asked is not None and not (asked == "response_format" and _plain_text(body[asked])):
                    what = f"{asked}: the engine that serves {body.get('model')!r} cannot do this ({capability})"
                    raise ApiError(400, "unsupported_value", what, param=asked)

    async def _admitted(self, dialect: Dialect, call: Call, reply: Reply) -> None:
        policy = self.settings.policy
        if policy is not None:
            found, unscanned = await self._check(policy, dialect, call)
            call.note_input(found, unscanned)
            if found.action == "block":
                self._refuse(dialect, call, reply, policy, found)
                return
        call.queue_s = await self._admission.enter(call.model)
        try:
            await self._answered(dialect, call, reply)
        finally:
            now = monotonic()
            self._admission.left(call.model, now - call.began - call.queue_s, _after(call.first, call))

    async def _answered(self, dialect: Dialect, call: Call, reply: Reply) -> None:
        answer = self._answer(dialect, call, reply)
        asker = self._asker
        try:
            asker.shadow(call, dialect.engine_path)
            await asker.ask(call, dialect.engine_path, answer)
            answer.finish()
        except UpstreamFault as fault:
            status, code = (504, "engine_timeout") if fault.late else (502, "engine_failed")
            if reply.started and isinstance(answer, RelayedStream | StreamedAnswer):
                answer.fail(code, str(fault))
                reply.status = status
                return
            raise ApiError(status, code, f"{fault}; try again", retry_after_s=1) from None
        finally:
            if isinstance(answer, StreamedAnswer):
                answer.note()

    def _answer(self, dialect: Dialect, call: Call, reply: Reply) -> Answer:
        """How the answer travels: as it is, or read on its way."""
        policy = self.settings.policy if getattr(dialect, "answers_text", True) else None
        relayed = dialect.path in _RELAYED and not (dialect.path != _RELAYED[0] and call.body.get("logprobs"))
        if policy is None and relayed:
            renamed = self._renamed(call.model)
            return (RelayedStream if call.stream else RelayedAnswer)(reply, call, renamed)
        return (StreamedAnswer if call.stream else WholeAnswer)(reply, call, policy, dialect)

    def _renamed(self, model: str) -> tuple[bytes, bytes] | None:
        """The engine's name for the model and ours, as they stand in JSON; None where all engines call it so.

        Inside a text of JSON every quote is escaped, so these bytes stand nowhere but at the field itself.
        """
        fleet = self.fleet
        for i in fleet.serving(model):
            theirs = fleet.members[i].models[model].fields.get("model", model)
            if theirs != model:
                return b'"model":' + msgspec.json.encode(theirs), b'"model":' + msgspec.json.encode(model)
        return None

    async def _check(self, policy: Policy, dialect: Dialect, call: Call) -> tuple[InputDecision, tuple[str, ...]]:
        """The input guard; a long text or a slow detector in a thread, so that nobody else's tokens wait for it."""
        places, unread = dialect.texts(call.body)
        said = [holder[key] for holder, key in places]
        if not self._slow_guard and sum(map(len, said)) <= _INLINE_CHARS:
            found = policy.check_input(said)
        else:
            found = await asyncio.to_thread(policy.check_input, said)
        for (holder, key), text in zip(places, found.texts, strict=True):
            holder[key] = text
        return found, (*found.unscanned, *unread)

    def _refuse(self, dialect: Dialect, call: Call, reply: Reply, policy: Policy, found: InputDecision) -> None:
        """The input guard's no: a complete, well-formed answer; the engine never sees the request."""
        finding = next((f for f in found.findings if f.action == "block"), None)
        answer = refusal(call, policy.refusal, finding, found.detector)
        call.answer.append(policy.refusal)
        call.finish = "content_filter"
        headers = {GUARD_HEADER: decision(call.id, finding, found.detector)["guard"]}
        headers[OVERHEAD_HEADER] = call.overhead()
        if call.stream:
            out = dialect.stream(call.asked, call.id)
            reply.begin(200, **headers)
            reply.write(out.chunk(answer) + out.end())
            reply.end()
        else:
            reply.send(200, msgspec.json.encode(dialect.whole(answer, call.asked, call.id)), **headers)

    def _count(self, call: Call, status: int) -> None:
        m, row, now = self.metrics, self.fleet.rows[call.model], monotonic()
        m.request(row, status)
        m.observe(row, LATENCY, now - call.began)
        m.observe(row, QUEUE, call.queue_s)
        m.observe(row, OVERHEAD, call.overhead_s)
        if call.first is not None:
            m.observe(row, TTFT, call.first - call.began)
            if call.tokens_out and call.tokens_out > 1 and call.last > call.first:
                m.observe(row, TPOT, (call.last - call.first) / (call.tokens_out - 1))
        if call.tokens_in is not None:
            m.observe(row, PROMPT, call.tokens_in)
            m.observe(row, GENERATION, call.tokens_out or 0)
        detector = next((f.detector for f in call.findings if f.action == "block"), "") if call.findings else ""
        m.guard(call.guard, detector)
        if self._recorder is not None:
            with suppress(Exception):  # a record must never cost an answer
                self._recorder.record(call.exchange(status, now))


_ASKS: dict[str, Iterable[str]] = {
    "logprobs": ("logprobs", "top_logprobs"),
    "tools": ("tools", "functions"),
    "structured_output": ("response_format",),
    "embeddings": ("input",),
    "streaming": ("stream",),
}
"""Which fields of an engine's body ask for which capability."""


def _plain_text(format_: Any) -> bool:
    return isinstance(format_, dict) and format_.get("type") == "text"


def _method(request: Request, allowed: str) -> None:
    if request.method != allowed:
        raise ApiError(405, "method_not_allowed", f"{request.path} takes {allowed}")


def _after(first: float | None, call: Call) -> float | None:
    return None if first is None else first - call.began - call.queue_s
