"""Triton over HTTP: `generate` and `generate_stream`, its metrics, and whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import httptools
import msgspec

from pilothouse.core.sse import SseParser
from pilothouse.core.wire import Target, target
from pilothouse.serve.engines._openai_pieces import EngineError
from pilothouse.serve.engines._triton_models import fault

_READ = 64 << 10


class HttpTransport:
    """One connection a request: closing it is how a request is cancelled."""

    def __init__(self, url: str, model: str) -> None:
        self._target, self._model = target(url), model

    async def ask(
        self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The outputs of each response, by name."""
        stream = bool(inputs.get("stream"))
        path = f"/v2/models/{self._model}/generate{'_stream' if stream else ''}"
        events, whole = SseParser(), list[bytes]()
        async with aclosing(_exchange(self._target, "POST", path, {**inputs, **parameters})) as pieces:
            async for status, data in pieces:
                if status != 200 or not stream:
                    whole.append(data)
                    continue
                for event in events.feed(data):
                    yield _outputs(event.data, 500)
        if whole:
            yield _outputs(b"".join(whole), status)

    async def ready(self) -> bool:
        """Can the model answer?"""
        status, _ = await get(self._target, f"/v2/models/{self._model}/ready")
        return status == 200

    async def close(self) -> None:
        """Nothing is kept open."""


async def get(where: Target, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 when nothing answers."""
    pieces = list[tuple[int, bytes]]()
    with suppress(EngineError):
        async with aclosing(_exchange(where, "GET", path, None)) as coming:
            pieces = [piece async for piece in coming]
    return (pieces[-1][0] if pieces else 0), b"".join(data for _, data in pieces)


def _outputs(data: bytes, status: int) -> Mapping[str, Any]:
    try:
        outputs = msgspec.json.decode(data)
    except msgspec.DecodeError:
        outputs = {"error": data[:200].decode(errors="replace")}
    if not isinstance(outputs, dict) or "error" in outputs:
        raise fault(str(outputs.get("error") if isinstance(outputs, dict) else outputs), status)
    return outputs


class _Answer:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.whole = False

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.whole = True


async def _exchange(
    where: Target, method: str, path: str, body: Mapping[str, Any] | None
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Status and the body's parts as they come (at least one, maybe empty); EngineError when it does not come whole."""
    content = b"" if body is None else msgspec.json.encode(body)
    lines = (
        f"{method} {where.path}{path} HTTP/1.1",
        f"Host: {where.authority}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    )
    try:
        reader, writer = await asyncio.open_connection(where.host, where.port, ssl=where.tls or None)
    except OSError as e:
        raise EngineError(503, f"Triton cannot be reached at {where.authority} ({e})") from None
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.whole:
            data = await reader.read(_READ)
            if not data:
                raise EngineError(502, "Triton closed the connection before its answer was whole")
            parser.feed_data(data)
            if answer.parts or answer.whole:
                parts, answer.parts = answer.parts, []
                yield parser.get_status_code(), b"".join(parts)
    except (OSError, httptools.HttpParserError) as e:
        raise EngineError(502, f"Triton's answer broke off ({e})") from None
    finally:
        writer.transport.abort()
