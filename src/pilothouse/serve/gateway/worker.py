"""One process of the gateway's front: takes connections, holds no state that matters, ends when its owner ends.

python -m pilothouse.serve.gateway.worker MEMORY_FD CONTROL_FD PROCESS PROCESSES
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from pilothouse.core.errors import UserError
from pilothouse.serve.gateway import control, shared
from pilothouse.serve.gateway.ask import Tries
from pilothouse.serve.gateway.gateway import Gateway
from pilothouse.serve.gateway.record import Exchange, Recorder
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.gateway.upstream import Patience

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy

_FLUSH_S = 0.1
_BATCH = 512


class ToOwner:
    """A recorder that hands records to the owner in batches; never waits, counts in memory what it must drop."""

    dropped = 0

    def __init__(self, memory: shared.Shared) -> None:
        self.channel: control.Channel | None = None
        self.keeps_text = False
        self._memory, self._batch = memory, list[Exchange]()
        self._timer: asyncio.TimerHandle | None = None
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._number = 0

    def record(self, exchange: Exchange) -> None:
        """Put it into the batch."""
        self._batch.append(exchange)
        if len(self._batch) >= _BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Send the batch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, []
        if not batch:
            return
        try:
            kept = self.channel is not None and not self.channel.full
            if kept and self.channel is not None:
                self.channel.send(control.Exchanges(batch))
        except (ValueError, TypeError, RecursionError):  # something an engine said cannot be written
            kept = False
        if not kept:
            self._memory.own.add(0, shared.DROPPED, len(batch))

    async def feedback(self, exchange: str, kind: str, value: str) -> bool:
        """Ask the owner to keep it."""
        assert self.channel is not None
        self.flush()
        self._number += 1
        future = self._asked[self._number] = asyncio.get_running_loop().create_future()
        self.channel.send(control.Feedback(self._number, exchange, kind, value))
        return bool(await future)

    def kept(self, answer: control.Kept) -> None:
        """The owner's answer."""
        future = self._asked.pop(answer.number, None)
        if future is not None and not future.done():
            future.set_result(answer.known)

    def close(self) -> None:
        """Nothing is left behind."""
        self.flush()


class Worker:
    """The process: a gateway, told by its owner what to do."""

    def __init__(self, memory: shared.Shared) -> None:
        self.ended = asyncio.Event()
        self._recorder = ToOwner(memory)
        self._fleet = Fleet(memory)
        self._gateway: Gateway | None = None
        self._settings, self._policy = Settings(), (b"", "")
        self._tls: ssl.SSLContext | None = None
        self._channel: control.Channel | None = None

    async def connect(self, fd: int) -> None:
        """Take the owner's end of the pair."""
        ours = socket.socket(fileno=fd)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_connection(
            lambda: control.Channel(control.Down, self._heard, self.ended.set), sock=ours
        )
        self._recorder.channel = self._channel

    def _heard(self, message: object) -> None:
        if isinstance(message, control.Members):
            self._fleet.update(message.members)
        elif isinstance(message, control.Configure):
            try:
                self._configure(message)
            except Exception as e:  # a certificate half written, a guard's file gone: no reason to drop every stream
                if self._gateway is None:
                    raise
                print(f"new settings cannot be used, the old ones stay: {e}", file=sys.stderr, flush=True)
        elif isinstance(message, control.Kept):
            self._recorder.kept(message)
        elif isinstance(message, control.Listen):
            self._begun = asyncio.get_running_loop().create_task(self._listen(message))
        elif isinstance(message, control.Stop):
            self._begun = asyncio.get_running_loop().create_task(self._stop(message.drain_s))

    def _configure(self, said: control.Configure) -> None:
        policy = self._settings.policy
        if self._policy != (said.policy, said.policy_folder):
            policy, self._policy = _policy(said.policy, said.policy_folder), (said.policy, said.policy_folder)
        self._recorder.keeps_text = said.keeps_text
        self._settings = Settings(
            policy=policy,
            keys=said.keys,
            body_limit=said.body_limit,
            admission=said.admission,
            ttft_s=said.ttft_s,
            price=said.price,
            tries=Tries(said.wait_ready_s, said.hedge_s),
            patience=Patience(said.first_s, said.next_s),
            traced=said.traced,
        )
        if self._gateway is not None:
            self._gateway.configure(self._settings)
        if said.tls_cert:  # last: a certificate that is being written must not keep a revoked key alive
            if self._tls is None:
                self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(said.tls_cert, said.tls_key or None)  # a renewed one serves new connections

    async def _listen(self, said: control.Listen) -> None:
        assert self._channel is not None
        recorder: Recorder | None = self._recorder if said.records else None
        self._gateway = Gateway(
            self._fleet,
            self._settings,
            recorder=recorder,
            proxy=said.proxy or None,
        )
        try:
            port = await self._gateway.start(
                said.host, said.port, public=said.public, tls=self._tls, reuse_port=said.shares_port
            )
        except UserError as e:
            self._channel.send(control.Listening(error=e.line()))
            return
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not look at it again
        gc.set_threshold(20_000, 20, 20)  # a request leaves next to no cycles behind
        self._channel.send(control.Listening(port))

    async def _stop(self, drain_s: float) -> None:
        if self._gateway is not None:
            await self._gateway.stop(drain_s)
        self._recorder.flush()
        await asyncio.sleep(0)
        self.ended.set()


def _policy(settings: bytes, folder: str) -> Policy | None:
    if not settings:
        return None
    from pilothouse.core.project.schema import Guard
    from pilothouse.guard.policy import compile_policy

    return compile_policy(Guard.model_validate_json(settings), folder=Path(folder))


async def _serve(memory_fd: int, control_fd: int, process: int, processes: int) -> None:
    worker = Worker(shared.Shared(processes, process, memory_fd))
    await worker.connect(control_fd)
    await worker.ended.wait()


def main() -> None:
    """Until the owner says stop, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole terminal; only the owner decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so does a service manager's: the owner drains us
    numbers = [int(a) for a in sys.argv[1:5]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(*numbers))


if __name__ == "__main__":
    main()
