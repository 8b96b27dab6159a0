"""Loaded by vLLM's own server (`--middleware`): who has no key comes in at no path, not only not under /v1.

vLLM asks for its key under /v1, /v2, /inference and /cohere only. `/invocations` answers like a chat and `/adapters`
loads any folder without it, so that every process of the machine could walk round the gateway and its guard. This file
runs in vLLM's Python: it imports nothing but the standard library, and lies in a folder of its own because that folder
goes on PYTHONPATH.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPEN = frozenset({"/health", "/metrics", "/ping", "/version"})
_Messages = Callable[..., Awaitable[Any]]


class Door:
    """ASGI middleware: 401 for what is not in OPEN and carries another key than VLLM_API_KEY."""

    def __init__(self, app: _Messages) -> None:
        self._app, self._wanted = app, f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Messages, send: _Messages) -> None:
        """Pass on, or refuse before a byte of the body is read."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._known(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            head = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 401, "headers": head})
            await send({"type": "http.response.body", "body": b'{"error":{"message":"no key","code":401}}'})

    def _known(self, scope: MutableMapping[str, Any]) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._wanted)
