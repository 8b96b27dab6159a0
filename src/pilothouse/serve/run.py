"""A served model for code that is not async: engines, supervisors and gateways on a uvloop thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from pilothouse.core.errors import UserError
from pilothouse.serve.deployment import Deployment, member
from pilothouse.serve.front import Front
from pilothouse.serve.gateway import control
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.gateway import Gateway
from pilothouse.serve.gateway.record import Exchange, Recorder
from pilothouse.serve.gateway.routing.fleet import Fleet, Member
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.supervisor import Supervisor

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy

T = TypeVar("T")
_GAUGES_S = 1.0
_SPARE_S = 5.0
_AGAIN_S = 5.0


class Live:
    """Engines and the gateways in front of them. `start` returns when they answer; `stop` ends everything."""

    def __init__(self, deployments: Sequence[Deployment], folder: Path, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serve", daemon=True)
        self._memory = sh.Shared()
        self._gateways, self._fleets, self._fronts = list[Gateway](), list[Fleet](), list[Front]()
        self._recorders = list[Recorder]()
        self._replicas: list[tuple[Deployment, Supervisor, int]] = []
        self._gauging: asyncio.Task[None] | None = None
        self._later = list[asyncio.Task[None]]()
        alone = sum(d.replicas for d in deployments) == 1
        for deployment in deployments:
            engine = deployment.knowledge()
            try:
                engine.can(deployment.spec)  # reads the options: a mistake in them is said before anything starts
            except UserError as e:
                raise _placed(e, deployment) from None
            for place, (name, spec) in enumerate(zip(deployment.names, deployment.specs(), strict=True)):
                where = folder if alone else folder / name
                said = on_event if alone else _named(name, on_event)
                supervisor = Supervisor(engine, spec, where, said, self._changed)
                self._replicas.append((deployment, supervisor, place))

    @property
    def supervisor(self) -> Supervisor:
        """The first engine's."""
        return self._replicas[0][1]

    @property
    def supervisors(self) -> list[Supervisor]:
        """All of them."""
        return [s for _, s, _ in self._replicas]

    def start(self) -> Live:
        """Start the engines; UserError with one's own reason when it cannot."""
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self.stop()
            raise
        return self

    def gateway(
        self,
        *,
        policy: Policy | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Settings | None = None,
        recorder: Recorder | None = None,
    ) -> str:
        """Another gateway in front of the engines, in this process; returns its URL (without `/v1`)."""
        fleet = Fleet(self._memory, self._members())
        made = Gateway(fleet, settings or Settings(policy=policy), recorder=recorder)
        bound = self._run(made.start(host, port))
        self._gateways.append(made)
        self._fleets.append(fleet)
        if recorder is not None:
            self._recorders.append(recorder)
        return _url("http", host, bound)

    def front(
        self,
        configure: control.Configure,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        public: bool = False,
        processes: int = 1,
        recorder: Recorder | None = None,
        seen: Callable[[Exchange], None] | None = None,
        proxy: str | None = None,
    ) -> tuple[str, Front]:
        """The production front: gateways in processes of their own. Returns its URL and the front."""
        front = Front(processes, configure, self._on_event, records=recorder, seen=seen, proxy=proxy)
        bound = self._run(front.start(host, port, self._members(), public=public))
        self._fronts.append(front)
        if recorder is not None:
            self._recorders.append(recorder)
        return _url("https" if configure.tls_cert else "http", host, bound), front

    def configure(self, front: Front, settings: control.Configure) -> None:
        """New settings for a front, from any thread."""
        self._loop.call_soon_threadsafe(front.configure, settings)

    def stop(self, drain_s: float = 10.0) -> None:
        """Gateways first, so that nobody is cut off who could still be answered; then the engines."""
        if not self._thread.is_alive():
            return
        self._run(self._stop(drain_s))
        for recorder in self._recorders:
            recorder.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> None:
        """All that share the traffic must start; a fallback or a shadow that cannot is tried again until it can."""
        starts = [asyncio.ensure_future(_begin(d, s)) for d, s, _ in self._replicas if d.role == "serve"]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            raise
        spare = [(d, s) for d, s, _ in self._replicas if d.role != "serve"]
        self._later = [asyncio.create_task(self._until_it_starts(d, s)) for d, s in spare]
        if self._later:  # those that can are there from the first request on
            await asyncio.wait(self._later, timeout=_SPARE_S)
        self._gauging = asyncio.create_task(self._gauge())

    async def _until_it_starts(self, deployment: Deployment, supervisor: Supervisor) -> None:
        said = ""
        while True:
            try:
                return await _begin(deployment, supervisor)
            except UserError as e:
                supervisor.failure = e.line()
                if supervisor.failure != said:
                    said = supervisor.failure
                    self._on_event(f"{deployment.name} ({deployment.role}) cannot be used yet: {said}")
                self._changed()
                await asyncio.sleep(_AGAIN_S)

    async def _stop(self, drain_s: float) -> None:
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        if self._gauging is not None:
            self._gauging.cancel()
        await asyncio.gather(*(f.stop(drain_s) for f in self._fronts), *(g.stop(drain_s) for g in self._gateways))
        await asyncio.gather(*(s.stop(drain_s) for _, s, _ in self._replicas))

    async def _gauge(self) -> None:
        """What the engines tell of their load, where the gateways see it."""
        while True:
            await asyncio.sleep(_GAUGES_S)
            for memory in (self._memory, *(f.memory for f in self._fronts)):
                for row, (_, supervisor, _) in enumerate(self._replicas):
                    told = supervisor.gauges
                    for column, value in enumerate((told.running, told.waiting, told.kv_used)):
                        memory.gauges.set(row, column, value or 0.0)
                memory.gauges.set(0, sh.G_UNWRITTEN, sum(r.dropped for r in self._recorders))

    def _members(self) -> tuple[Member, ...]:
        return tuple(member(d, s, place) for d, s, place in self._replicas)

    def _changed(self) -> None:
        """An engine's state is new."""
        members = self._members()
        for fleet in self._fleets:
            fleet.update(members)
        for front in self._fronts:
            front.update(members)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the serving thread; ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _begin(deployment: Deployment, supervisor: Supervisor) -> None:
    """Start; an error of a further engine names its own section of the project."""
    try:
        await supervisor.start()
    except UserError as e:
        raise _placed(e, deployment) from None


def _placed(e: UserError, deployment: Deployment) -> UserError:
    """The error with the section that declares this engine."""
    return UserError(e.what, where=e.where.replace("pilothouse.yaml: serve.", f"{deployment.where}.", 1), fix=e.fix)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _named(name: str, on_event: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: on_event(f"{name}: {line}")
