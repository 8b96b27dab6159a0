"""Keep an engine's process alive: start, wait until it really answers, restart with back-off, stop in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.client import chat
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import Pool, Raw, exchange, target
from pilothouse.serve import orphans, warden
from pilothouse.serve.base import Engine, EngineSpec, Gauges, Launch
from pilothouse.serve.ports import free_port

REMOTE_TIMEOUT_S = 20.0
_QUICK_S = 30.0
_QUICK_DEATHS = 5
_BACKOFF_S = 0.5
_BACKOFF_CAP_S = 15.0
_LOG_LIMIT = 8 << 20
_SCRAPE_S = 1.0
_SILENT_S = 120.0
"""An engine whose process lives but that has told nothing of itself for so long hangs: it is started again."""


class Supervisor:
    """One engine process. `ready` is set while it answers; `url` is where. `on_event` gets one line per change,
    `on_change` is called whenever one of these has changed."""

    def __init__(
        self,
        engine: Engine,
        spec: EngineSpec,
        folder: Path,
        on_event: Callable[[str], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self.spec, self.folder, self.on_event, self.on_change = engine, spec, folder, on_event, on_change
        self.ready = asyncio.Event()
        self.url, self.api_key, self.restarts, self.failure = "", "", 0, ""
        self.gauges = Gauges()
        self.pid: int | None = None
        """The engine's process id, while there is one."""
        self._metrics = ""
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # One note a supervisor: two Pilothouses may serve the same project at once (`ship` beside `serve`).
        self._note = folder / f"engine-{os.getpid()}-{id(self):x}.pid"

    @property
    def alias(self) -> str:
        """The model name that the engine itself knows."""
        return self.spec.alias

    def fields(self, adapter: str | None) -> dict[str, Any]:
        """Body fields that choose an adapter, for who asks the engine itself."""
        return self.engine.fields(adapter, self.spec)

    async def start(self) -> None:
        """Start and wait for the first real answer; UserError with the engine's own reason when it cannot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for line in orphans.end(self.folder):
            self.on_event(line)
        await self._launch()
        if self._process is not None:
            self._tasks.append(asyncio.create_task(self._keep_alive()))
        if self._metrics:
            self._tasks.append(asyncio.create_task(self._scrape()))

    async def stop(self, drain_s: float = 10.0) -> None:
        """SIGTERM, up to drain_s for streams in flight, then SIGKILL."""
        self.ready.clear()
        self.on_change()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # one that failed must not keep the engine from its end
        await self._end(drain_s)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Make an adapter available: at once where the engine can, else by starting it again with it."""
        if not path.exists():
            raise UserError("no such adapter", where=str(path))
        others = tuple(a for a in self.spec.adapters if a[0] != name)
        await self._change_adapters("load", name, path, (*others, (name, path)))

    async def unload_adapter(self, name: str) -> None:
        """Take it away again."""
        path = dict(self.spec.adapters).get(name)
        if path is None:
            known = ", ".join(n for n, _ in self.spec.adapters)
            raise UserError(f"no adapter is called {name!r}", fix=f"Loaded: {known or 'none'}.")
        await self._change_adapters("unload", name, path, tuple(a for a in self.spec.adapters if a[0] != name))

    async def _change_adapters(self, verb: Any, name: str, path: Path, after: tuple[tuple[str, Path], ...]) -> None:
        call = self.engine.adapter_call(verb, name, path)
        if call is not None:
            where, body = call
            status, said = await self._post(where, body)
            if status >= 300:
                raise UserError(f"the engine cannot {verb} adapter {name!r}: {said}", where=str(path))
        self.spec = replace(self.spec, adapters=after)
        if call is None and self._process is not None:
            for task in self._tasks[:1]:
                task.cancel()
            self.ready.clear()
            self.on_change()
            await self._end(5)
            await self._launch()
            self._tasks[0] = asyncio.create_task(self._keep_alive())
        self.on_change()

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        raw = await self._ask("POST", self.url + path, msgspec.json.encode(body), timeout_s=120)
        return raw.status or 599, raw.error or raw.body[:300].decode("utf-8", "replace")

    async def _ask(self, method: str, url: str, content: bytes = b"", *, timeout_s: float) -> Raw:
        """One request to the engine, with its key, on a connection of its own."""
        to = target(url)
        head = f"{method} {to.path} HTTP/1.1\r\nHost: {to.authority}\r\nContent-Length: {len(content)}\r\n"
        head += f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head += "Content-Type: application/json\r\n\r\n"
        pool = Pool(to)
        try:
            return await exchange(pool, head.encode() + content, timeout_s=timeout_s)
        finally:
            pool.close()

    async def _launch(self) -> None:
        launch = self.engine.launch(self.spec, free_port())
        self.url, self.api_key = launch.url, launch.api_key
        self._metrics = launch.metrics or (f"{launch.url}/metrics" if launch.argv else "")
        if launch.argv:
            await self._spawn(launch)
        try:
            await self._answers(launch)
        except BaseException:
            await self._end(0)
            raise
        self.failure = ""
        self.ready.set()
        self.on_change()

    async def _spawn(self, launch: Launch) -> None:
        log_file = self.folder / "engine.log"
        if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT:
            log_file.replace(self.folder / "engine.log.1")
        with log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(Path(warden.__file__)),
                *launch.argv,
                env={**os.environ, **launch.env},
                stdin=asyncio.subprocess.PIPE,  # the warden ends when this closes, however we end
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        told = await self._process.stdout.readline()
        self.pid = int(told) if told.strip() else None
        if self.pid is not None:
            orphans.note(self._note, self.pid)

    async def _answers(self, launch: Launch) -> None:
        """Until one token has been generated: a health page alone does not prove that it can."""
        endpoint = Endpoint(launch.url, self.spec.alias, launch.api_key)
        body = self.engine.rewrite({**self.fields(None)})
        ask = [{"role": "user", "content": "Hi"}]
        only_embeds = self.engine.can(self.spec) == {"embeddings"}
        patience = launch.patience_s if self._process is not None else min(launch.patience_s, REMOTE_TIMEOUT_S)
        deadline, error = time.monotonic() + patience, ""
        while time.monotonic() < deadline:
            if self._process is not None and self._process.returncode is not None:
                raise UserError(
                    f"the engine ended while starting ({_said(self._process.returncode)}): {self._reason()}",
                    where=str(self.folder / "engine.log"),
                )
            if only_embeds:
                status, error = await self._post("/v1/embeddings", {"model": self.alias, **body, "input": "Hi"})
                error = "" if status == 200 else error
            else:
                answer = await chat(endpoint, ask, max_tokens=1, timeout_s=max(60.0, patience / 2), **body)
                status, error = answer.status, answer.error
            if not error:
                return
            if status in (400, 401, 403, 404, 422):
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
            self.failure = f"the engine ended ({_said(code)}): {self._reason()}"
            self.on_change()
            await self._end(0)
            if quick > _QUICK_DEATHS:
                self.on_event(f"{self.failure}; given up after {quick} quick ends in a row")
                return
            delay = min(_BACKOFF_S * 2 ** (quick - 1), _BACKOFF_CAP_S)
            self.on_event(f"{self.failure}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            try:
                await self._launch()
            except (UserError, OSError) as e:  # OSError: no process, port or file to be had just now
                self.failure = e.line() if isinstance(e, UserError) else f"the engine cannot be started: {e}"
                self.on_change()
                continue
            self.restarts += 1
            self.on_change()
            self.on_event(f"the engine answers again (restart {self.restarts})")

    async def _scrape(self) -> None:
        """What the engine says of its load, once a second; one that says nothing for long hangs and is ended."""
        heard = time.monotonic()
        while True:
            await asyncio.sleep(_SCRAPE_S)
            if not self.ready.is_set():
                heard = time.monotonic()
                continue
            text = await self._figures()
            if text is not None:
                heard = time.monotonic()
                with suppress(ValueError):  # not figures as we know them; that it speaks is enough
                    self.gauges = self.engine.gauges(text)
            elif time.monotonic() - heard > _SILENT_S and self.pid is not None:
                self.on_event(f"the engine has been silent for {_SILENT_S:g} s: ended")
                heard = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    async def _figures(self) -> str | None:
        raw = await self._ask("GET", self._metrics, timeout_s=10)
        return raw.body.decode("utf-8", "replace") if raw.status == 200 else None

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
                orphans.kill_group(self.pid)
                try:
                    await asyncio.wait_for(process.wait(), 5)
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None or process.returncode < 0:
            orphans.kill_group(self.pid)  # what a killed warden could not clear
        self.pid = None
        self._note.unlink(missing_ok=True)

    def _reason(self) -> str:
        log = self.folder / "engine.log"
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 20_000))
            tail = f.read().decode(errors="replace")
        return self.engine.reason(tail) or "its log says nothing"


def _said(code: int) -> str:
    """An exit code as people know it; 128 + n is a signal's (the warden says it so)."""
    number = code - 128 if code > 128 else -code
    if number > 0 and number in signal.valid_signals() and (code < 0 or code > 128):
        return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"
