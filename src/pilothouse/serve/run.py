"""A served model for code that is not async: engine, supervisor and gateways on a uvloop thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from pilothouse.core import registry
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.gateway.gateway import Gateway
from pilothouse.serve.gateway.record import Recorder
from pilothouse.serve.gateway.routes import Route
from pilothouse.serve.supervisor import Supervisor

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy

T = TypeVar("T")


class Live:
    """One engine and the gateways in front of it. `start` returns when the engine answers; `stop` ends everything."""

    def __init__(
        self,
        engine: str,
        spec: EngineSpec,
        routes: Mapping[str, Route],
        folder: Path,
        on_event: Callable[[str], None],
    ) -> None:
        knowledge = registry.create("engines", engine, where="pilothouse.yaml: serve.engine")
        self._routes, self._gateways, self._recorders = dict(routes), list[Gateway](), list[Recorder]()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serve", daemon=True)
        self.supervisor = Supervisor(knowledge, spec, folder, on_event)

    def start(self) -> Live:
        """Start the engine; UserError with its own reason when it cannot."""
        self._thread.start()
        try:
            self._run(self.supervisor.start())
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
        public: bool = False,
        keys: Mapping[str, str] | None = None,
        recorder: Recorder | None = None,
        proxy: str | None = None,
        body_limit: int = 1 << 20,
    ) -> str:
        """Another gateway in front of the same engine; returns its URL (without `/v1`)."""
        made = Gateway(
            self.supervisor,
            self._routes,
            policy=policy,
            keys=keys,
            recorder=recorder,
            proxy=proxy,
            body_limit=body_limit,
        )
        bound = self._run(made.start(host, port, public=public))
        self._gateways.append(made)
        if recorder is not None:
            self._recorders.append(recorder)
        return f"http://{f'[{host}]' if ':' in host else host}:{bound}"

    def stop(self, drain_s: float = 10.0) -> None:
        """Gateways first, so that nobody is cut off who could still be answered; then the engine."""
        if not self._thread.is_alive():
            return
        for gateway in self._gateways:
            self._run(gateway.stop(drain_s))
        self._run(self.supervisor.stop(drain_s))
        for recorder in self._recorders:
            recorder.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the serving thread; ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
