"""`/v1/chat/completions`: from a caller's request to the engine and back, under guard, counted and recorded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pilothouse.core.records import Finding
from pilothouse.core.wire import Target
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.record import Exchange
from pilothouse.serve.gateway.routes import Backend, Route

if TYPE_CHECKING:
    from pilothouse.guard.policy import InputDecision, Policy

Place = tuple[dict[str, Any], str]
"""A text in the request: the object that holds it, and its key."""

_TRUSTED_ROLES = ("system", "developer")


def parse(body: bytes, routes: Mapping[str, Route]) -> tuple[dict[str, Any], Route]:
    """The request and its route; ApiError for anything that no engine could answer."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ApiError(400, "invalid_json", f"the body is not valid JSON: {e}") from None
    if not isinstance(request, dict):
        raise ApiError(400, "invalid_request", "the body must be a JSON object")
    model = request.get("model")
    if not isinstance(model, str) or model not in routes:
        raise ApiError(404, "model_not_found", f"no model is called {model!r}; there are: {', '.join(routes)}")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "invalid_request", "'messages' must be a list with at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, "invalid_request", f"messages[{i}] must be an object with a 'role'")
        content = message.get("content")
        if not (content is None or isinstance(content, str | list)):
            raise ApiError(400, "invalid_request", f"messages[{i}].content must be text or a list of parts")
    if not isinstance(request.get("stream"), bool | None):
        raise ApiError(400, "invalid_request", "'stream' must be true or false")
    if not isinstance(request.get("stream_options"), dict | None):
        raise ApiError(400, "invalid_request", "'stream_options' must be an object")
    return request, routes[model]


def texts(messages: list[dict[str, Any]]) -> tuple[list[Place], tuple[str, ...]]:
    """Every text of a request, and the kinds of its parts that are no text, which no detector can read.

    Every role is read but the application's own (system, developer): those speak of instructions by right, and what
    comes from outside does not stand there. Assistant messages are read: a caller can put words into them.
    """
    found: list[Place] = []
    unread: dict[str, None] = {}
    for message in messages:
        if message["role"] in _TRUSTED_ROLES:
            continue
        content = message.get("content")
        if isinstance(content, str):
            found.append((message, "content"))
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                found.append((part, "text"))
            else:
                unread[str(part.get("type", "part")) if isinstance(part, dict) else "part"] = None
        other = ("reasoning_content", "reasoning", "refusal", "name")
        found += [(message, key) for key in other if isinstance(message.get(key), str)]
        calls = message.get("tool_calls")
        functions = [c.get("function") for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
        functions.append(message.get("function_call"))
        found += [(f, "arguments") for f in functions if isinstance(f, dict) and isinstance(f.get("arguments"), str)]
    return found, tuple(unread)


def guard_input(policy: Policy, request: dict[str, Any]) -> tuple[InputDecision, tuple[str, ...]]:
    """Check the texts; redactions are written back into the request. Also what could not be checked."""
    places, unread = texts(request["messages"])
    decision = policy.check_input([holder[key] for holder, key in places])
    for (holder, key), text in zip(places, decision.texts, strict=True):
        holder[key] = text
    return decision, (*decision.unscanned, *unread)


def upstream_request(request: dict[str, Any], route: Route, backend: Backend, to: Target) -> bytes:
    """The bytes for the engine: its own model name, the adapter, the default system prompt, usage always asked for."""
    body = {**request, "model": backend.alias, **backend.fields(route.adapter)}
    if route.system_prompt and not any(m["role"] in ("system", "developer") for m in body["messages"]):
        body["messages"] = [{"role": "system", "content": route.system_prompt}, *body["messages"]]
    if body.get("stream"):
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    content = msgspec.json.encode(body)
    key = f"Authorization: Bearer {backend.api_key}\r\n" if backend.api_key else ""
    head = f"POST {to.path}/v1/chat/completions HTTP/1.1\r\nHost: {to.authority}\r\n{key}"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def refusal(
    request: dict[str, Any], text: str, request_id: str, finding: Finding | None, detector: str, *, stream: bool
) -> dict[str, Any]:
    """A complete answer (or its only chunk) that says the refusal, well-formed, with what blocked it."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, ("delta" if stream else "message"): message, "finish_reason": "content_filter"}
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk" if stream else "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [choice],
        **({} if stream else {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
        "pilothouse": decision(request_id, finding, detector),
    }


def decision(request_id: str, finding: Finding | None, detector: str) -> dict[str, Any]:
    """What a caller learns of a block: the guard's name, the category, the decision's id. Never the matched text."""
    category = finding.category if finding else ""
    return {"guard": finding.detector if finding else detector, "category": category, "decision_id": request_id}


class Ledger:
    """What is known about one exchange while it runs; `exchange` makes the record."""

    def __init__(self, request: dict[str, Any], route: Route, caller: str, *, guarded: bool, keeps_text: bool) -> None:
        self.id = f"req_{uuid.uuid4().hex[:20]}"
        self.request, self.route, self.caller = request, route, caller
        self.at, self.began = time.time(), time.monotonic()
        self.first: float | None = None
        self.usage: dict[str, Any] = {}
        self.guard = "passed" if guarded else "off"
        self.findings: tuple[Finding, ...] = ()
        self.answer: list[str] = []
        self.keeps_text = keeps_text

    def note_input(self, found: InputDecision, unscanned: tuple[str, ...]) -> None:
        """The input guard's part."""
        self.findings = found.findings
        if found.action == "block":
            self.guard = "blocked"
        elif unscanned:
            self.guard = "unscanned"
        elif found.action != "pass":
            self.guard = {"redact": "redacted", "flag": "flagged"}[found.action]

    def note_output(self, findings: tuple[Finding, ...], unscanned: tuple[str, ...], *, blocked: bool) -> None:
        """The output guard's part; the graver of both stays. An unscanned answer is never called passed."""
        self.findings += findings
        if blocked:
            self.guard = "blocked"
        elif unscanned:
            self.guard = "unscanned"
        elif self.guard != "unscanned" and any(f.action == "redact" for f in findings):
            self.guard = "redacted"
        elif self.guard == "passed" and findings:
            self.guard = "flagged"

    def token(self) -> None:
        """The first piece of the answer is on its way."""
        if self.first is None:
            self.first = time.monotonic()

    def exchange(self, status: int) -> Exchange:
        """The record of it all."""
        now = time.monotonic()
        return Exchange(
            id=self.id,
            at=self.at,
            release=self.route.release,
            model=self.request["model"],
            caller=self.caller,
            stream=bool(self.request.get("stream")),
            status=status,
            ttft_ms=(self.first - self.began) * 1e3 if self.first else None,
            latency_ms=(now - self.began) * 1e3,
            tokens_in=self.usage.get("prompt_tokens"),
            tokens_out=self.usage.get("completion_tokens"),
            guard=self.guard,
            findings=self.findings,
            request=None if self.guard == "blocked" else self.request["messages"],
            answer="".join(self.answer),
        )
