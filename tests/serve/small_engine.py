"""A process that answers every request with 'x'; run by the supervisor's tests. argv: port, mode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, MODE = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    """One answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        print("answered", flush=True)
        self.wfile.write(body)


def stopped(*_: object) -> None:
    """SIGTERM came."""
    print("SIGTERM", flush=True)
    if MODE != "stubborn":
        os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopped)
    if MODE == "die":
        print("no model here", flush=True)
        sys.exit(3)
    if MODE == "family":
        print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
    if MODE == "slow-start":
        time.sleep(0.5)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
