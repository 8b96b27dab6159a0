"""Between an engine whose answers are not quite OpenAI's and whoever takes them: each is translated on its way.

For the few engines that have `answers`; all others' bytes never come here. A stream goes on event by event, a whole
answer and an error once they are there: `end` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pilothouse.serve.gateway.upstream import Sink, Upstream, UpstreamFault

_LIMIT = 4 << 20
_any = msgspec.json.Decoder(dict[str, Any]).decode


class Translated:
    """A sink in front of another. `status` is the engine's, as the other's would be."""

    def __init__(self, sink: Sink, translate: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._sink, self._translate = sink, translate
        self.status, self._stream, self._rest = 0, False, b""

    def on_head(self, status: int, headers: dict[str, str], upstream: Upstream) -> None:
        """Its status and whether events will come."""
        self.status, self._rest = status, b""
        self._stream = status == 200 and headers.get("content-type", "").startswith("text/event-stream")
        self._sink.on_head(status, headers, upstream)

    def on_body(self, data: bytes) -> None:
        """Bytes: of a stream, all events that are whole go on."""
        self._rest += data
        if not self._stream:
            return
        *events, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n\n")
        if len(self._rest) > _LIMIT:
            raise UpstreamFault("the engine sends an event without an end")
        out = b"".join(self._event(event) + b"\n\n" for event in events)
        if out:
            self._sink.on_body(out)

    def end(self) -> None:
        """The engine has said all: what was kept goes on."""
        rest, self._rest = self._rest, b""
        if rest:
            self._sink.on_body(rest if self._stream else self._body(rest))

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:"):
            return event
        payload = event[5:].strip()
        return b"data: " + (self._body(payload) if payload.startswith(b"{") else payload)

    def _body(self, body: bytes) -> bytes:
        """One JSON object, translated; what is none (a proxy's page, a text) stays."""
        try:
            return msgspec.json.encode(self._translate(_any(body)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return body
