"""Ask a model and get its answer, one or many at a time: the one client of everything that talks to a model.

Errors of server and network are part of the answer (`Completion.error`), never exceptions; only a URL that cannot be
used raises. The answer's times come from the socket (`core.wire`), its formulas from `core.timing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import uvloop

from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import Pool, Raw, Target, exchange, target
from pilothouse.core.wire_chat import Completion, TokenLogprob, completion

__all__ = ["Completion", "Job", "Raw", "TokenLogprob", "chat", "chat_many", "chat_request", "run"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One question for `chat_many`. body: further fields of the request (temperature, stream, logprobs, …)."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    body: Mapping[str, Any] = field(default_factory=dict)


def chat_request(
    endpoint: Endpoint,
    where: Target,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    stream: bool = False,
    **body: Any,
) -> bytes:
    """The request's bytes, head and body. Fields of the call win over `endpoint.extra`, which wins over defaults.

    A field given as None is left out. A stream asks for the usage chunk.
    """
    fields: dict[str, Any] = {
        "model": endpoint.model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
        **endpoint.extra,
        **body,
    }
    content = msgspec.json.encode({k: v for k, v in fields.items() if v is not None})
    lines = [
        f"POST {where.path}/v1/chat/completions HTTP/1.1",
        f"Host: {where.authority}",
        "User-Agent: pilothouse",
        f"Accept: {'text/event-stream' if fields['stream'] else 'application/json'}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    ]
    if endpoint.api_key:
        if not endpoint.api_key.isascii() or not endpoint.api_key.isprintable():
            raise UserError("the endpoint's key holds characters that a header cannot carry", fix="Check the key.")
        lines.append(f"Authorization: Bearer {endpoint.api_key}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + content


async def chat(
    endpoint: Endpoint,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    stream: bool = False,
    timeout_s: float = 120,
    **body: Any,
) -> Completion:
    """One answer, on a connection of its own."""
    pool = Pool(target(endpoint.url))
    request = chat_request(
        endpoint, pool.target, messages, max_tokens=max_tokens, temperature=temperature, stream=stream, **body
    )
    try:
        raw = await exchange(pool, request, timeout_s=timeout_s)
    finally:
        pool.close()
    return completion(raw, secret=endpoint.api_key)


async def chat_many(
    endpoint: Endpoint,
    jobs: Sequence[Job],
    *,
    concurrency: int,
    on_done: Callable[[int, Completion], None] | None = None,
    timeout_s: float = 120,
) -> list[Completion]:
    """All answers, in the order of the jobs, at most `concurrency` at a time; `on_done(index, answer)` as they end.

    Connections are used again. What `on_done` raises ends the whole call.
    """
    pool = Pool(target(endpoint.url))
    answers: list[Completion | None] = [None] * len(jobs)
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        for i, job in waiting:  # one iterator for all workers: each job is taken once
            request = chat_request(endpoint, pool.target, job.messages, max_tokens=job.max_tokens, **job.body)
            raw = await exchange(pool, request, timeout_s=timeout_s)
            answer = answers[i] = completion(raw, secret=endpoint.api_key)
            if on_done is not None:
                on_done(i, answer)

    workers = [asyncio.ensure_future(work()) for _ in range(min(max(1, concurrency), len(jobs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        pool.close()
    return [answer for answer in answers if answer is not None]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop from code that is not async. ctrl-C cancels it, then raises KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
