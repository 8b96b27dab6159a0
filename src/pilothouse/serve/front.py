"""The gateway's processes, one a core, seen from their owner: started, told, listened to, started again, stopped.

They share one port (SO_REUSEPORT: the kernel deals connections out) and one piece of memory for limits, figures and
routing. The owner has what must exist once: engines, store, keys. A process that dies takes its connections with it;
the others go on, and it is replaced at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from pilothouse.core.errors import UserError
from pilothouse.serve.gateway import control
from pilothouse.serve.gateway.record import Exchange, Recorder
from pilothouse.serve.gateway.routing.fleet import Member
from pilothouse.serve.gateway.shared import Shared
from pilothouse.serve.ports import free_port

_START_S = 60.0
_AGAIN_S = 0.5
_QUICK_DEATHS = 10
_LATE_S = 0.3


class _Process:
    """One of them, with our end of the pair."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.channel: control.Channel | None = None
        self.listening: asyncio.Future[int]
        self.gone = asyncio.Event()


class Front:
    """All of them. records: who keeps exchanges; seen: who else is told (spans); on_event: one line a change."""

    def __init__(
        self,
        processes: int,
        configure: control.Configure,
        on_event: Callable[[str], None],
        *,
        records: Recorder | None = None,
        seen: Callable[[Exchange], None] | None = None,
        proxy: str | None = None,
    ) -> None:
        self.memory = Shared(processes)
        self._settings, self._on_event = configure, on_event
        self._records, self._seen, self._proxy = records, seen, proxy or ""
        self._all = [_Process(n) for n in range(processes)]
        self._watches: list[asyncio.Task[None]] = []
        self._members: tuple[Member, ...] = ()
        self._listen: control.Listen | None = None
        self._background = set[asyncio.Task[None]]()

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [p.process.pid for p in self._all if p.process is not None and p.process.returncode is None]

    async def start(self, host: str, port: int, members: tuple[Member, ...], *, public: bool = False) -> int:
        """Start all; returns the port once every one listens."""
        self._members = members
        many = len(self._all) > 1
        port = port or free_port()
        self._listen = control.Listen(host, port, public, self._proxy, self._records is not None, many)
        try:
            bound = await asyncio.gather(*(self._launch(p) for p in self._all))
        except BaseException:
            await self._end(0)
            raise
        self._watches = [asyncio.create_task(self._keep_alive(p)) for p in self._all]
        return bound[0]

    def configure(self, settings: control.Configure) -> None:
        """New settings for requests from now on; no stream is dropped."""
        self._settings = settings
        self._tell(settings)

    def update(self, members: tuple[Member, ...]) -> None:
        """The fleet has changed."""
        self._members = members
        self._tell(control.Members(members))

    async def stop(self, drain_s: float) -> None:
        """No new connections; answers in flight get drain_s."""
        for watch in self._watches:
            watch.cancel()
        self._watches.clear()
        await self._end(drain_s)

    async def _end(self, drain_s: float) -> None:
        self._tell(control.Stop(drain_s))
        for p in self._all:
            if p.process is None:
                continue
            try:
                await asyncio.wait_for(p.process.wait(), drain_s + 3)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    p.process.kill()
                await p.process.wait()
        for p in self._all:  # the last records are still on their way
            if p.channel is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(p.gone.wait(), 3)

    def _tell(self, message: control.Down) -> None:
        for p in self._all:
            if p.channel is not None:
                p.channel.send(message)

    async def _launch(self, p: _Process) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        p.gone, p.listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        fds = (self.memory.fd, theirs.fileno())
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        argv = ["-m", "pilothouse.serve.gateway.worker", *map(str, fds), str(p.number), str(len(self._all))]
        p.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *argv,
            pass_fds=fds,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        _, p.channel = await asyncio.get_running_loop().create_connection(
            lambda: control.Channel(control.Up, lambda m: self._heard(p, m), p.gone.set), sock=ours
        )
        assert self._listen is not None
        for message in (self._settings, control.Members(self._members), self._listen):
            p.channel.send(message)
        ended = asyncio.ensure_future(p.process.wait())
        await asyncio.wait([ended, p.listening], return_when=asyncio.FIRST_COMPLETED, timeout=_START_S)
        ended.cancel()
        if p.listening.done() and p.listening.exception() is None:
            return p.listening.result()
        with suppress(ProcessLookupError):
            p.process.kill()  # it lives but takes no connections: whoever waits for its end must not wait for ever
        if not p.listening.done():
            code = p.process.returncode
            how = f"ended while starting (exit code {code})" if code is not None else f"did not start in {_START_S:g} s"
            raise UserError(f"a process of the gateway {how}")
        return p.listening.result()

    def _heard(self, p: _Process, message: object) -> None:
        if isinstance(message, control.Exchanges):
            for exchange in message.exchanges:
                if self._records is not None and exchange.api != "shadow":
                    self._records.record(exchange)
                if self._seen is not None:
                    self._seen(exchange)
        elif isinstance(message, control.Listening) and not p.listening.done():
            if message.error:
                p.listening.set_exception(UserError(message.error))
            else:
                p.listening.set_result(message.port)
        elif isinstance(message, control.Feedback) and self._records is not None:
            task = asyncio.get_running_loop().create_task(self._keep(p, message, self._records))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _keep(self, p: _Process, asked: control.Feedback, records: Recorder) -> None:
        known = False
        try:
            known = await records.feedback(asked.exchange, asked.kind, asked.value)
            if not known:  # its record may still lie in another process' batch
                await asyncio.sleep(_LATE_S)
                known = await records.feedback(asked.exchange, asked.kind, asked.value)
        except Exception as e:  # the store fails; the caller must not wait for ever
            self._on_event(f"feedback could not be kept: {e}")
        if p.channel is not None:
            p.channel.send(control.Kept(asked.number, known))

    async def _keep_alive(self, p: _Process) -> None:
        """Replace one that ends."""
        quick = 0
        while quick < _QUICK_DEATHS:
            assert p.process is not None
            began = asyncio.get_running_loop().time()
            code = await p.process.wait()
            self.memory.forget(p.number)
            quick = quick + 1 if asyncio.get_running_loop().time() - began < 30 else 1
            self._on_event(f"gateway process {p.number} ended (exit code {code}); starting it again")
            await asyncio.sleep(_AGAIN_S * (quick - 1))
            try:
                await self._launch(p)
            except UserError as e:
                self._on_event(e.line())
            except OSError as e:  # no process or no socket to be had just now
                self._on_event(f"gateway process {p.number} cannot be started: {e.strerror or e}")
        self._on_event(f"gateway process {p.number} is given up after {quick} quick ends in a row")
