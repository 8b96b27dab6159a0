"""A real llama.cpp process for a test, by the engine's own knowledge."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilothouse.core import registry
from pilothouse.core.records import Endpoint
from pilothouse.serve.base import EngineSpec


@contextmanager
def serving(model: Path, log: Path, adapter: Path | None = None, context: int = 512) -> Iterator[Endpoint]:
    """Serve the model (with the adapter, when there is one) until the block ends."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    adapters = (("tuned", adapter),) if adapter else ()
    spec = EngineSpec(model, "m", adapters, context=context, streams=2, options={"threads": 1})
    engine = registry.create("engines", "llamacpp")
    launch = engine.launch(spec, port)
    with log.open("wb") as out:
        process = subprocess.Popen(launch.argv, env={**os.environ, **launch.env}, stdout=out, stderr=out)
    try:
        _wait(f"{launch.url}/health", process, log)
        yield Endpoint(launch.url, "m", launch.api_key, extra=engine.fields("tuned" if adapter else None, spec))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError("the engine is not ready after 60 s")
