"""OpenAI's protocol for an engine that does not speak it: pieces of text in, chat and text completions out.

The engine gives `generate(ask)`, an async generator of pieces of one choice; this front does the rest: the choices of
`n`, whole and streamed answers, usage, errors, the key. When a client leaves, its generators are closed at once.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from pilothouse.serve.engines._openai_pieces import Ask, EngineError, Generate, Piece, Usage, Whole, choice, merged
from pilothouse.serve.gateway.http import Connection, Reply, Request

_BODY_LIMIT = 64 << 20
_MOST_CHOICES = 128
_OURS = ("messages", "prompt", "model", "n", "stream", "stream_options")


@dataclass(frozen=True)
class Front:
    """What is served. key: '' lets everybody in. healthy: does the engine still run? metrics: its own figures."""

    alias: str
    generate: Generate
    key: str = ""
    healthy: Callable[[], bool] = lambda: True
    metrics: Callable[[], Awaitable[bytes]] | None = None

    async def answer(self, request: Request, reply: Reply) -> None:
        """Route one request."""
        try:
            await self._route(request, reply)
        except Exception as e:
            error = _as_error(e)
            reply.send(error.status, _json(error.body()))

    async def _route(self, request: Request, reply: Reply) -> None:
        if request.path == "/health":
            reply.send(*((200, b'{"status":"ok"}') if self.healthy() else (503, b'{"status":"down"}')))
            return
        given = request.headers.get("authorization", "").encode()
        if self.key and not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            raise EngineError(401, "a wrong key, or none", "invalid_api_key")
        if request.path == "/metrics" and self.metrics is not None:
            reply.send(200, await self.metrics(), "text/plain; version=0.0.4")
        elif request.path == "/v1/models":
            model = {"id": self.alias, "object": "model", "created": 0, "owned_by": "pilothouse"}
            reply.send(200, _json({"object": "list", "data": [model]}))
        elif request.path in ("/v1/chat/completions", "/v1/completions"):
            if request.method != "POST":
                raise EngineError(405, "POST is the only method here")
            await self._complete(request, reply, chat="chat" in request.path)
        else:
            raise EngineError(404, f"there is no {request.path} here")

    async def _complete(self, request: Request, reply: Reply, *, chat: bool) -> None:
        body = _object(request.body)
        prompts, n = _prompts(body, chat), _choices(body)
        if len(prompts) * n > _MOST_CHOICES:
            raise EngineError(400, f"{len(prompts)} prompts with n = {n} are more than {_MOST_CHOICES} answers")
        stream = bool(body.get("stream"))
        rest = {name: value for name, value in body.items() if name not in _OURS}
        sources: list[AsyncGenerator[Piece, None]] = []
        for prompt in prompts:
            for i in range(n):  # the same seed for each would give the same answer n times
                own = rest | ({"seed": rest["seed"] + i} if i and isinstance(rest.get("seed"), int) else {})
                sources.append(self.generate(Ask(chat, prompt, stream, own)))
        usage = Usage(n, len(sources))
        kind = ("chat.completion" + ".chunk" * stream) if chat else "text_completion"
        head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self.alias,
        }
        async with aclosing(merged(sources)) as pieces:
            if stream:
                options = body.get("stream_options")
                wanted = isinstance(options, dict) and bool(options.get("include_usage"))
                await _stream(reply, pieces, head, usage, chat=chat, wanted=wanted)
            else:
                choices = [Whole(i, chat) for i in range(len(sources))]
                async for i, piece in pieces:
                    usage.add(i, piece)
                    choices[i].add(piece)
                reply.send(200, _json({**head, "choices": [c.made() for c in choices], "usage": usage.made()}))


async def serve(front: Front, port: int, stop: asyncio.Event) -> None:
    """Listen on loopback until `stop`; then answer what is under way, and return."""
    active, connections = 0, set[Connection]()

    async def answer(request: Request, reply: Reply) -> None:
        nonlocal active
        active += 1
        try:
            await front.answer(request, reply)
        finally:
            active -= 1

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answer, _BODY_LIMIT, connections), "127.0.0.1", port)
    await stop.wait()
    server.close()
    while active:
        await asyncio.sleep(0.02)


async def _stream(
    reply: Reply,
    pieces: AsyncIterator[tuple[int, Piece]],
    head: Mapping[str, Any],
    usage: Usage,
    *,
    chat: bool,
    wanted: bool,
) -> None:
    """Chunks as they come. Nothing is sent before the first piece: until then an error can still have its status."""
    begun: set[int] = set()
    extra = {"usage": None} if wanted else {}

    def write(choice: dict[str, Any]) -> None:
        reply.write(b"data: " + _json({**head, "choices": [choice], **extra}) + b"\n\n")

    try:
        async for i, piece in pieces:
            usage.add(i, piece)
            if not begun:
                reply.begin(200)
            if chat and i not in begun:
                write(choice(i, {"delta": {"role": "assistant", "content": ""}}, None, None))
            begun.add(i)
            for made in _chunks(i, piece, chat):
                write(made)
    except Exception as e:
        if not begun:
            raise
        reply.write(b"data: " + _json(_as_error(e).body()) + b"\n\n")
        reply.end()
        return
    if not begun:
        raise EngineError(500, "the engine ended without an answer")
    if wanted:
        reply.write(b"data: " + _json({**head, "choices": [], "usage": usage.made()}) + b"\n\n")
    reply.write(b"data: [DONE]\n\n")
    reply.end()


def _chunks(index: int, piece: Piece, chat: bool) -> Iterator[dict[str, Any]]:
    """A chat's finish_reason comes in a chunk of its own, as OpenAI's does."""
    if not chat:
        yield choice(index, {"text": piece.text}, piece.logprobs, piece.finish or None)
        return
    said = {**({"content": piece.text} if piece.text else {}), **piece.more}
    if said or piece.logprobs:
        yield choice(index, {"delta": said}, piece.logprobs, None)
    if piece.finish:
        yield choice(index, {"delta": {}}, None, piece.finish)


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise EngineError(400, f"the body is not JSON ({e})") from None
    if not isinstance(body, dict):
        raise EngineError(400, "the body must be an object")
    return body


def _prompts(body: Mapping[str, Any], chat: bool) -> list[Any]:
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise EngineError(400, "messages must be a list of at least one object")
        return [messages]
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise EngineError(400, "prompt must be a text, or a list of texts")
    return prompts


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= _MOST_CHOICES):
        raise EngineError(400, f"n must be a whole number from 1 to {_MOST_CHOICES}")
    return n or 1


def _as_error(e: Exception) -> EngineError:
    return e if isinstance(e, EngineError) else EngineError(500, f"{type(e).__name__}: {e}")


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
