"""An engine that answers by script and fails on demand, and a gateway in front of it: a fault injector, not a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from pilothouse.core.client import run as run
from pilothouse.serve.deployment import Route
from pilothouse.serve.gateway.auth import plain_keys
from pilothouse.serve.gateway.gateway import Gateway
from pilothouse.serve.gateway.record import Exchange
from pilothouse.serve.gateway.routing.fleet import Fleet, Member, Served
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.gateway.shared import Shared

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def sse(value: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """One chunk of a chat answer."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "engine", "choices": [choice]}


def streamed(texts: list[str], *, usage: bool = True) -> list[bytes]:
    """The events of a streamed answer, as llama.cpp sends them."""
    events = [sse(chunk({"role": "assistant", "content": None}))]
    events += [sse(chunk({"content": text})) for text in texts]
    events.append(sse(chunk({}, "stop")))
    if usage:
        events.append(sse({**chunk({}), "choices": [], "usage": USAGE}))
    return [*events, b"data: [DONE]\n\n"]


def whole(text: str, **message: Any) -> bytes:
    """A whole chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "engine", "choices": [choice]}
    return json.dumps({**body, "usage": USAGE}).encode()


class Wire:
    """The engine's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def json(self, body: bytes, status: int = 200) -> None:
        """A whole answer; the connection stays."""
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def begin(self) -> None:
        """The head of a stream."""
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    async def piece(self, data: bytes) -> None:
        """A piece of it."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def stream(self, pieces: list[bytes], *, close: bool = True, pause: float = 0) -> None:
        """A whole stream; then, like llama.cpp, the connection closes although nothing said so."""
        await self.begin()
        for data in pieces:
            await self.piece(data)
            await asyncio.sleep(pause)
        self.writer.write(b"0\r\n\r\n")
        if close:
            self.writer.close()

    def die(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


Script = Callable[[dict[str, Any], Wire], Awaitable[None]]


@dataclass
class Engine:
    """The scripted engine as a gateway's backend."""

    script: Script
    url: str = ""
    api_key: str = "engine-secret"
    alias: str = "engine"
    restarts: int = 0
    failure: str = ""
    ready: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: int = 0

    def member(self, routes: Mapping[str, Route], **state: Any) -> Member:
        """It as a gateway sees it."""
        models = {
            name: Served(
                {"model": self.alias, "lora": [{"id": 0, "scale": float(route.adapter is not None)}]},
                route.system_prompt,
                route.release,
            )
            for name, route in routes.items()
        }
        known = {"ready": self.ready, "restarts": self.restarts, "failure": self.failure, "capacity": 4, **state}
        return Member("engine", self.url, key=self.api_key, models=models, **known)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        wire = Wire(reader, writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                self.heads.append(head)
                self.requests.append(request)
                await self.script(request, wire)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.left += 1
        finally:
            writer.close()


class Kept:
    """A recorder that keeps records in a list."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.dropped, self.keeps_text = 0, True

    def record(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    async def feedback(self, exchange: str, kind: str, value: str) -> bool:
        return exchange in [e.id for e in self.exchanges]

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Front:
    """A gateway with its engine."""

    gateway: Gateway
    engine: Engine
    kept: Kept
    port: int
    routes: Mapping[str, Route]

    def update(self, **state: Any) -> None:
        """Tell the gateway of the engine's new state."""
        self.gateway.fleet.update((self.engine.member(self.routes, **state),))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, data: bytes, *, timeout: float = 10) -> bytes:
        """Send bytes on a connection of their own, read to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(timeout):
                return await reader.read()
        finally:
            writer.close()

    async def post(self, body: Any, *, path: str = "/v1/chat/completions", headers: str = "") -> Answer:
        """One POST on a connection of its own."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}"
        return parse(await self.raw(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content))

    async def get(self, path: str, *, headers: str = "", method: str = "GET") -> Answer:
        """One GET on a connection of its own."""
        return parse(
            await self.raw(
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n".encode()
            )
        )

    async def recorded(self, n: int = 1) -> list[Exchange]:
        """The records once there are n."""
        async with asyncio.timeout(5):
            while len(self.kept.exchanges) < n:
                await asyncio.sleep(0.005)
        return self.kept.exchanges


@dataclass
class Answer:
    """A parsed HTTP answer. `whole` is false when a chunked body broke off."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """SSE data, parsed; the [DONE] mark as a string."""
        data = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        return ["[DONE]" if d == b"[DONE]" else json.loads(d) for d in data]

    def text(self, index: int = 0) -> str:
        """The streamed content of one choice."""
        choices = [c for e in self.events if e != "[DONE]" for c in e.get("choices", [])]
        return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def parse(data: bytes) -> Answer:
    """An answer read to the end of its connection."""
    head, _, body = data.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    complete = True
    if headers.get("transfer-encoding") == "chunked":
        out = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            n = int(size, 16)
            out, body, complete = out + rest[:n], rest[n + 2 :], n == 0
        body = out
    return Answer(int(first.split()[1]), headers, body, complete)


@asynccontextmanager
async def front(
    script: Script,
    *,
    policy: Any = None,
    keys: Mapping[str, str] | None = None,
    proxy: str | None = None,
    routes: Mapping[str, Route] | None = None,
    **settings: Any,
) -> AsyncIterator[Front]:
    """A gateway before a scripted engine, both on loopback."""
    engine, kept = Engine(script), Kept()
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    routes = routes or {"desk": Route("desk", "Be brief.", "r1"), "desk-base": Route(None, "Be brief.", "r1")}
    told = Settings(policy=policy, keys=tuple(plain_keys(keys or {})), **settings)
    gateway = Gateway(Fleet(Shared(), (engine.member(routes),)), told, recorder=kept, proxy=proxy)
    port = await gateway.start("127.0.0.1", 0)
    try:
        yield Front(gateway, engine, kept, port, routes)
    finally:
        await gateway.stop(0)
        server.close()


@asynccontextmanager
async def fleet(
    scripts: Mapping[str, Script], states: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[tuple[Front, dict[str, Engine]]]:
    """A gateway before several scripted engines that all serve `desk`. states: what is special about one's Member."""
    engines, servers, kept = {name: Engine(script) for name, script in scripts.items()}, [], Kept()
    routes = {"desk": Route("desk", "", "r1")}
    members = []
    for name, engine in engines.items():
        server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
        servers.append(server)
        engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        state: dict[str, Any] = {"group": "desk", **(states or {}).get(name, {})}
        members.append(replace(engine.member(routes, **state), name=name))
    gateway = Gateway(Fleet(Shared(), tuple(members)), Settings(**settings), recorder=kept)
    port = await gateway.start("127.0.0.1", 0)
    try:
        yield Front(gateway, next(iter(engines.values())), kept, port, routes), engines
    finally:
        await gateway.stop(0)
        for server in servers:
            server.close()


def ask(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "desk", "messages": [{"role": "user", "content": text}], **fields}
