"""The console as a process of its own on a unix socket, so that no page can slow the gateway."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pilothouse.core.errors import need
from pilothouse.store.store import Store


class ConsoleProcess:
    """Runs while its context lasts; `socket` is where it listens. Its log is `console.log` in the store."""

    def __init__(self, store: Store, metrics_url: str) -> None:
        need("starlette", "console", "the console")
        self._folder = tempfile.TemporaryDirectory(prefix="pilothouse-")
        self.socket = str(Path(self._folder.name) / "console.sock")
        self._argv = [sys.executable, "-m", "pilothouse.ui.console.serve"]
        self._argv += ["--store", str(store.root), "--socket", self.socket, "--metrics", metrics_url, "--tied"]
        self._log = store.root / "console.log"

    def __enter__(self) -> ConsoleProcess:
        with self._log.open("ab") as log:
            # A session of its own: ctrl-C reaches us first, and we stop it in order.
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._folder.cleanup()
