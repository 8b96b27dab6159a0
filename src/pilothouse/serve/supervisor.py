"""Keep an engine's process alive: start, wait until it really answers, restart with back-off, stop in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.client import chat
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.serve.base import Engine, EngineSpec, Launch
from pilothouse.serve.ports import free_port

READY_TIMEOUT_S = 300.0
REMOTE_TIMEOUT_S = 20.0
_QUICK_S = 30.0
_QUICK_DEATHS = 5
_BACKOFF_S = 0.5
_BACKOFF_CAP_S = 15.0
_LOG_LIMIT = 8 << 20


class Supervisor:
    """One engine process. `ready` is set while it answers; `url` is where. `on_event` gets one line per change."""

    def __init__(self, engine: Engine, spec: EngineSpec, folder: Path, on_event: Callable[[str], None]) -> None:
        self.engine, self.spec, self.folder, self.on_event = engine, spec, folder, on_event
        self.ready = asyncio.Event()
        self.url, self.api_key, self.restarts, self.failure = "", "", 0, ""
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        # One note a supervisor: two Pilothouses may serve the same project at once (`ship` beside `serve`).
        self._note = folder / f"engine-{os.getpid()}-{id(self):x}.pid"

    @property
    def pid(self) -> int | None:
        """The engine's process id, while there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def alias(self) -> str:
        """The model name that the engine itself knows."""
        return self.spec.alias

    def fields(self, adapter: str | None) -> dict[str, Any]:
        """Body fields that choose an adapter."""
        return self.engine.fields(adapter, self.spec)

    async def start(self) -> None:
        """Start and wait for the first real answer; UserError with the engine's own reason when it cannot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for line in end_orphans(self.folder):
            self.on_event(line)
        await self._launch()
        if self._process is not None:
            self._watch = asyncio.create_task(self._keep_alive())

    async def stop(self, drain_s: float = 10.0) -> None:
        """SIGTERM, up to drain_s for streams in flight, then SIGKILL."""
        self._stopping = True
        self.ready.clear()
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._end(drain_s)

    async def _launch(self) -> None:
        launch = self.engine.launch(self.spec, free_port())
        self.url, self.api_key = launch.url, launch.api_key
        if launch.argv:
            log_file = self.folder / "engine.log"
            if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT:
                log_file.replace(self.folder / "engine.log.1")
            with log_file.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *launch.argv,
                    env={**os.environ, **launch.env},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            note = {"pid": self._process.pid, "started": _started(self._process.pid), "mark": launch.argv[2]}
            note |= {"owner": os.getpid(), "owner_started": _started(os.getpid())}
            self._note.write_bytes(msgspec.json.encode(note))
        try:
            await self._answers(launch)
        except BaseException:
            await self._end(0)
            raise
        self.failure = ""
        self.ready.set()

    async def _answers(self, launch: Launch) -> None:
        """Until one token has been generated: a health page alone does not prove that it can."""
        endpoint = Endpoint(launch.url, self.spec.alias, launch.api_key)
        body = self.engine.fields(None, self.spec)
        patience = READY_TIMEOUT_S if self._process is not None else REMOTE_TIMEOUT_S
        deadline, error = time.monotonic() + patience, ""
        while time.monotonic() < deadline:
            if self._process is not None and self._process.returncode is not None:
                raise UserError(
                    f"the engine ended while starting (exit code {self._process.returncode}): {self._reason()}",
                    where=str(self.folder / "engine.log"),
                )
            answer = await chat(endpoint, [{"role": "user", "content": "Hi"}], max_tokens=1, timeout_s=60, **body)
            if not answer.error:
                return
            error = answer.error
            if answer.status in (400, 401, 403, 404):
                break
            await asyncio.sleep(0.1)
        raise UserError(f"the engine does not answer: {error}", where=launch.url)

    async def _keep_alive(self) -> None:
        """Wait for the process to end; start it again, later each time; give up when it only dies."""
        quick = 0
        while True:
            began = time.monotonic()
            assert self._process is not None
            code = await self._process.wait()
            self.ready.clear()
            quick = quick + 1 if time.monotonic() - began < _QUICK_S else 1
            self.failure = f"the engine ended (exit code {code}): {self._reason()}"
            if quick > _QUICK_DEATHS:
                self.on_event(f"{self.failure}; given up after {quick} quick ends in a row")
                return
            delay = min(_BACKOFF_S * 2 ** (quick - 1), _BACKOFF_CAP_S)
            self.on_event(f"{self.failure}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            try:
                await self._launch()
            except UserError as e:
                self.failure = e.line()
                continue
            self.restarts += 1
            self.on_event(f"the engine answers again (restart {self.restarts})")

    async def _end(self, drain_s: float) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), max(drain_s, 0.1))
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._note.unlink(missing_ok=True)

    def _reason(self) -> str:
        log = self.folder / "engine.log"
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 20_000))
            tail = f.read().decode(errors="replace")
        return self.engine.reason(tail) or "its log says nothing"


def end_orphans(folder: Path) -> list[str]:
    """End engines that a killed Pilothouse left behind in `folder`; says what it ended.

    Ids are used again, so a process is known by its id, its time of start and the module on its command line; and it is
    left behind only when its owner, known in the same way, is gone.
    """
    said = []
    for file in sorted(folder.glob("engine-*.pid")):
        try:
            note = msgspec.json.decode(file.read_bytes(), type=_Note)
        except (msgspec.DecodeError, OSError):
            file.unlink(missing_ok=True)  # cut off while it was written: its engine dies with its parent anyway
            continue
        if _started(note.owner) == note.owner_started:
            continue
        if _started(note.pid) == note.started and note.mark in _command_line(note.pid):
            with suppress(ProcessLookupError):
                os.kill(note.pid, signal.SIGKILL)
                said.append(f"engine process {note.pid} was left behind: ended")
        file.unlink(missing_ok=True)
    return said


class _Note(msgspec.Struct, frozen=True):
    """Which process is whose. `started` in clock ticks since boot (proc(5), field 22)."""

    pid: int
    started: int
    mark: str
    owner: int
    owner_started: int


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _started(pid: int) -> int:
    """0 when there is no such process (a zombie is none), or no /proc to ask."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])
