"""An OpenAI-shaped endpoint for tests that answers by a function and fails on demand: a fault injector, not a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One answer; status other than 200 is an error in OpenAI's shape with `code`."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    code: str = ""
    guard: str = ""


@dataclass
class FakeEndpoint:
    """A running endpoint: `answer(request) -> Reply` decides; `requests` is what came."""

    url: str
    answer: Callable[[dict[str, Any]], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[FakeEndpoint]:
    """Serve on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one write: two would wait for a delayed ACK

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.requests.append(request)
            reply = fake.answer(request)
            if reply.status == 200:
                message = {"role": "assistant", "content": reply.text}
                choice = {"index": 0, "message": message, "finish_reason": reply.finish}
                body: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
                if reply.guard:  # as our gateway says it
                    body["pilothouse"] = {"guard": reply.guard, "category": "x", "decision_id": "req_1"}
            else:
                body = {"error": {"message": reply.text or "injected fault", "type": "error", "code": reply.code}}
            data = json.dumps(body).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeEndpoint(f"http://127.0.0.1:{server.server_address[1]}", answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
