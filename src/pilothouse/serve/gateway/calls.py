"""One request to a model: checked, limited, guarded, admitted, answered, counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.answer import GUARD_HEADER, StreamedAnswer, WholeAnswer, decision, refusal
from pilothouse.serve.gateway.ask import Asker
from pilothouse.serve.gateway.call import TOKENS_UNSAID, Call
from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import OVERHEAD_HEADER, Reply, Request
from pilothouse.serve.gateway.layout import GENERATION, LATENCY, OVERHEAD, PROMPT, QUEUE, TPOT, TTFT
from pilothouse.serve.gateway.limits import Key, Limits
from pilothouse.serve.gateway.metrics import Metrics
from pilothouse.serve.gateway.record import Recorder
from pilothouse.serve.gateway.relay import RelayedAnswer, RelayedStream, Renamed
from pilothouse.serve.gateway.routing.admission import Admission
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.gateway.upstream import Answer, Pool, UpstreamFault

if TYPE_CHECKING:
    from pilothouse.guard.policy import InputDecision, Policy

_INLINE_CHARS = 2_000  # about 4 ms of guard at most
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TEXT = {"/v1/completions": b'"prompt"', "/v1/responses": b'"input"', "/v1/embeddings": b'"input"'}
_NAMES = {f"/v1/{p}": p.partition("/")[0] for p in ("chat/completions", "completions", "responses", "messages")}
_NAMES["/v1/embeddings"] = "embeddings"
_decode = msgspec.json.Decoder().decode
_RELAYED = ("/v1/chat/completions", "/v1/completions")


class Calls:
    """Answers calls under one set of settings; a gateway that is told new ones makes a new one."""

    def __init__(
        self, fleet: Fleet, settings: Settings, pool: Pool, metrics: Metrics, recorder: Recorder | None
    ) -> None:
        self._fleet, self._settings, self._metrics, self._recorder = fleet, settings, metrics, recorder
        self._shared, policy = fleet.shared, settings.policy
        self.limits = Limits(self._shared, settings.price)
        self._asker = Asker(fleet, pool, settings.tries)
        self._admission = Admission(fleet, settings.admission, ttft_s=settings.ttft_s)
        self._queues = settings.admission != "none"
        self._slow_guard = policy is not None and any(r.detector.cost in ("model", "judge") for r in policy.rules)

    def close(self) -> None:
        """No more copies for shadows."""
        self._asker.close()

    async def answer(self, dialect: Dialect, request: Request, key: Key, reply: Reply) -> None:
        """One request, to its end; ApiError while nothing has gone out."""
        call = self._call(dialect, request, key)
        reply.request_id = call.id
        self.limits.enter(key, call.tokens)
        own = self._shared.own
        own.add(0, sh.IN_FLIGHT)
        try:
            if self._settings.policy is None or await self._let_in(self._settings.policy, dialect, call, reply):
                call.queue_s = await self._admission.enter(call.model) if self._queues else 0.0
                await self._answered(dialect, call, reply)
        except ApiError as e:
            reply.status = e.status
            raise
        except asyncio.CancelledError:
            reply.status = 499  # the client left; nginx's word for it
            raise
        finally:
            own.add(0, sh.IN_FLIGHT, -1.0)
            self.limits.leave(key, call.tokens, *call.used())
            self._count(call, reply.status or 500)

    def _call(self, dialect: Dialect, request: Request, key: Key) -> Call:
        """The call that a request makes; ApiError for what no engine here could answer."""
        try:
            asked = _decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise ApiError(400, "invalid_json", f"the body is not valid JSON: {e}") from None
        if not isinstance(asked, dict):
            raise ApiError(400, "invalid_request", "the body must be a JSON object")
        model = asked.get("model")
        serving = self._fleet.serving(model) if isinstance(model, str) else ()
        if not serving and not isinstance(model, str):
            raise ApiError(400, "invalid_request", "model: a name is required", param="model")
        if not serving:
            what = f"no model is called {model!r}; there are: {', '.join(self._fleet.models)}"
            raise ApiError(404, "model_not_found", what, param="model")
        if key.models and model not in key.models:
            raise ApiError(403, "model_not_allowed", f"this key may not ask {model!r}", param="model")
        body = dialect.request(asked)
        call = Call(_NAMES[dialect.path], asked, key, request.at)
        call.body = body
        # A blocked request names the release that it would have asked.
        call.release = self._fleet.members[serving[0]].models[call.model].release
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        answer = limit if isinstance(limit, int) else TOKENS_UNSAID
        call.asks = len(request.body) // 4
        call.tokens = call.asks + answer * (body.get("n") or 1)
        if self._recorder is not None:
            call.keeps_text = self._recorder.keeps_text
        headers = request.headers
        session = headers.get("x-session-id") or asked.get("prompt_cache_key")
        if isinstance(session, str):
            call.session = session
        if len(serving) > 1:
            call.prompt = request.body[max(request.body.find(_TEXT.get(dialect.path, b'"messages"')), 0) :]
        if self._settings.traced or "traceparent" in headers:
            trace = headers.get("traceparent", "")
            call.trace = trace if _TRACE.fullmatch(trace) else f"00-{getrandbits(128):032x}-{0:016x}-01"
            call.span = f"{getrandbits(64):016x}"
        self._able(body, serving)
        return call

    def _able(self, body: dict[str, Any], serving: tuple[int, ...]) -> None:
        """What the engine cannot do is refused; dropped in silence it would look like an answer."""
        for i in serving:
            for capability in self._fleet.members[i].lacks:
                for field in _ASKS.get(capability, ()):
                    if body.get(field) and not (field == "response_format" and _plain_text(body[field])):
                        what = f"{field}: the engine that serves {body.get('model')!r} cannot do this ({capability})"
                        raise ApiError(400, "unsupported_value", what, param=field)

    async def _let_in(self, policy: Policy, dialect: Dialect, call: Call, reply: Reply) -> bool:
        """The input guard's word; its no is an answer of its own."""
        found, unscanned = await self._check(policy, dialect, call)
        call.note_input(found, unscanned)
        if found.action == "block":
            self._refuse(dialect, call, reply, policy, found)
            return False
        return True

    async def _answered(self, dialect: Dialect, call: Call, reply: Reply) -> None:
        answer = self._answer(dialect, call, reply)
        asker = self._asker
        try:
            if self._fleet.shadowed:
                asker.shadow(call, dialect.engine_path)
            await asker.ask(call, dialect.engine_path, answer)
            _finish(answer)
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
            if self._queues:
                took = monotonic() - call.began - call.queue_s
                self._admission.left(call.model, took if reply.status == 200 else None, _after(call.first, call))

    def _answer(self, dialect: Dialect, call: Call, reply: Reply) -> Answer:
        """How the answer travels: as it is, or read on its way."""
        policy = self._settings.policy if getattr(dialect, "answers_text", True) else None
        relayed = dialect.path in _RELAYED and not (dialect.path != _RELAYED[0] and call.body.get("logprobs"))
        if policy is None and relayed:
            renamed = self._renamed(call.model)
            return (RelayedStream if call.stream else RelayedAnswer)(reply, call, renamed)
        return (StreamedAnswer if call.stream else WholeAnswer)(reply, call, policy, dialect)

    def _renamed(self, model: str) -> Renamed | None:
        """The engine's name for the model and ours, as they stand in JSON; None where all engines call it so.

        Inside a text of JSON every quote is escaped, so these bytes stand nowhere but at the field itself.
        """
        fleet = self._fleet
        for i in fleet.serving(model):
            theirs = fleet.members[i].models[model].fields.get("model", model)
            if theirs != model:
                named = rb'"model": ?' + re.escape(msgspec.json.encode(theirs))
                return re.compile(named), b'"model":' + msgspec.json.encode(model)
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
        m, row, now = self._metrics, self._fleet.rows[call.model], monotonic()
        m.request(row, status)
        seen = [(LATENCY, now - call.began), (QUEUE, call.queue_s), (OVERHEAD, call.overhead_s)]
        if call.first is not None:
            seen.append((TTFT, call.first - call.began))
            if call.tokens_out and call.tokens_out > 1 and call.last > call.first:
                seen.append((TPOT, (call.last - call.first) / (call.tokens_out - 1)))
        if call.tokens_in is not None:
            seen.append((PROMPT, call.tokens_in))
            seen.append((GENERATION, call.tokens_out or 0))
        m.observe(row, seen)
        detector = next((f.detector for f in call.findings if f.action == "block"), "") if call.findings else ""
        m.guard(call.guard, detector)
        if self._recorder is not None:
            try:
                self._recorder.record(call.exchange(status, now))
            except Exception:  # a record must never cost an answer
                self._shared.own.add(0, sh.DROPPED)


def _finish(answer: Answer) -> None:
    """What stands in an answer is the engine's; where it is not what an answer is made of, the engine failed."""
    try:
        answer.finish()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as e:
        raise UpstreamFault(f"the engine's answer is not one ({e!r})") from e


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


def _after(first: float | None, call: Call) -> float | None:
    return None if first is None else first - call.began - call.queue_s
