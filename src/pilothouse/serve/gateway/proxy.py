"""Everything that is not the API: handed to the console on its unix socket, byte for byte."""

from __future__ import annotations

from pilothouse.serve.gateway.http import Reply, Request
from pilothouse.serve.gateway.upstream import Pool, Upstream

_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"content-length"}


async def pass_on(pool: Pool, socket: str, request: Request, reply: Reply) -> None:
    """Forward one request and its answer; hop-by-hop headers stay behind (RFC 9110 §7.6.1)."""
    method = "GET" if request.method == "HEAD" else request.method  # the parser cannot know that no body will follow
    head = [b"%b %b HTTP/1.1" % (method.encode(), request.target)]
    head += [b"%b: %b" % (n, v) for n, v in request.raw_headers if n.lower() not in _HOP]
    head += [b"content-length: %d" % len(request.body), b"", b""]
    whole = _Page(reply)
    await pool.exchange(socket, b"\r\n".join(head) + request.body, whole)
    whole.finish()


class _Page:
    """A page is small: collected, then sent."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._status = reply, 502
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def on_head(self, status: int, headers: dict[str, str], _: Upstream) -> None:
        self._status = status
        self._headers = {n: v for n, v in headers.items() if n.encode() not in _HOP and n != "server"}

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> None:
        kind = self._headers.pop("content-type", "application/octet-stream")
        self._reply.send(self._status, b"".join(self._parts), kind, **self._headers)
