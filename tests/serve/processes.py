"""Start what an engine's `launch` says, wait until it answers, end it: engines without a supervisor."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pilothouse.serve.base import Launch


@contextmanager
def running(launch: Launch, log: Path, *, within_s: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """The process while it answers /health; RuntimeError with the end of its log when it ends or takes too long."""
    with log.open("ab") as out:
        process = subprocess.Popen(launch.argv, env={**os.environ, **launch.env}, stdout=out, stderr=out)
    try:
        until = time.monotonic() + within_s
        while not _healthy(launch.url):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=2) as page:
            return bool(page.status == 200)
    except (URLError, OSError):
        return False
