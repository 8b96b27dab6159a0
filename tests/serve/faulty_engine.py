"""An upstream that misbehaves on demand: to inject faults and to time the gateway, never to stand for an engine.

`python -m tests.serve.faulty_engine PORT` serves it in a process of its own (benchmarks). What it does is chosen by the
request's last user message: see `answer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any


class FaultyEngine:
    """A tiny HTTP server with settable behaviour. `seen` holds the bodies it got; `cut` counts clients that left."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cut = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
                body = json.loads(await reader.readexactly(length))
                self.seen.append(body)
                if not await self.answer(body, writer):
                    break
        writer.close()

    async def answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """False closes the connection. The command is the last message's first word; the rest is what it says."""
        command, _, text = str(body["messages"][-1]["content"]).partition(" ")
        if command == "die":
            return False
        if command == "error":
            await _send(writer, 500, b'{"error":{"message":"out of memory","type":"server_error","code":null}}')
            return True
        if command == "garbage":
            writer.write(b"\x00\x01 this is not HTTP\r\n\r\n")
            await writer.drain()
            return False
        if not body.get("stream"):
            choices = [
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                for i in range(body.get("n") or 1)
            ]
            usage = {"prompt_tokens": 5, "completion_tokens": len(text), "total_tokens": 5 + len(text)}
            await _send(
                writer, 200, json.dumps({"id": "x", "model": "alias", "choices": choices, "usage": usage}).encode()
            )
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await _chunk(writer, {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
        size = int(command[5:]) if command.startswith("piece") and command[5:].isdigit() else 1
        try:
            for i, start in enumerate(range(0, len(text), size)):
                delta = {"content": text[start : start + size]}
                await _chunk(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                if command == "break" and i == 3:
                    return False
                if command == "slow":
                    await asyncio.sleep(0.02)
                if writer.is_closing():
                    raise ConnectionResetError
        except ConnectionError:
            self.cut += 1
            return False
        await _chunk(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 5, "completion_tokens": len(text), "total_tokens": 5 + len(text)}
        await _chunk(writer, {"choices": [], "usage": usage})
        data = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        await writer.drain()
        return True


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
    )
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
    data = (
        b"data: %b\n\n" % json.dumps({"id": "x", "object": "chat.completion.chunk", "model": "alias", **chunk}).encode()
    )
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def _main(port: int) -> None:
    engine = FaultyEngine()
    await engine.start(port)
    print(engine.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
