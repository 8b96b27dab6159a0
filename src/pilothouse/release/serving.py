"""Put what a release names behind an endpoint: the same code for every stage's checks and for production."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilothouse.core.project.schema import Guard, Serve
from pilothouse.core.records import Asset
from pilothouse.guard.policy import Policy, compile_policy
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.gateway.record import StoreRecorder
from pilothouse.serve.gateway.routes import Route
from pilothouse.serve.run import Live
from pilothouse.store.store import Store


@dataclass(frozen=True)
class Served:
    """What is served, by digest: assets `base`, `adapter`, `prompt`, `policy`, and the engine with its settings."""

    name: str
    assets: dict[str, Asset]
    engine: dict[str, Any]
    release: str = ""


class Serving:
    """A running engine with its model and adapter; gateways in front of it are added on demand. Stop it when done."""

    def __init__(self, served: Served, store: Store, *, note: Callable[[str], None]) -> None:
        self.served, self.store = served, store
        base, adapter = served.assets["base"], served.assets["adapter"]
        spec = EngineSpec(
            model=store.folder(base) / "model.gguf",
            alias=served.name,
            adapters=((served.name, store.folder(adapter) / "adapter.gguf"),),
            context=served.engine["context"],
            streams=served.engine["streams"],
            options=served.engine["options"],
        )
        system = store.read(served.assets["prompt"], "system.txt").decode()
        routes = {
            served.name: Route(adapter=served.name, system_prompt=system, release=served.release),
            f"{served.name}-base": Route(adapter=None, system_prompt=system, release=served.release),
        }
        self._live = Live(served.engine["engine"], spec, routes, store.root / "engines" / served.name, note)
        self._live.start()
        self._urls: dict[bool, str] = {}
        self._drain_s = 10.0

    @property
    def policy(self) -> Policy:
        """The guard, compiled from the policy asset."""
        asset = self.served.assets["policy"]
        settings = Guard.model_validate_json(self.store.read(asset, "policy.json"))
        return compile_policy(settings, folder=self.store.folder(asset))

    def url(self, *, guarded: bool) -> str:
        """A loopback gateway for the stages, with the guard or without."""
        if guarded not in self._urls:
            self._urls[guarded] = self._live.gateway(policy=self.policy if guarded else None)
        return self._urls[guarded]

    def front(self, settings: Serve, *, port: int, keys: dict[str, str], console: str) -> str:
        """The production gateway: guarded, recording exchanges, the console behind it on a unix socket."""
        self._drain_s = settings.drain_s
        return self._live.gateway(
            policy=self.policy,
            host=settings.host,
            port=port,
            public=settings.public,
            keys=keys,
            recorder=StoreRecorder(self.store, record_text=settings.record_text),
            proxy=console,
            body_limit=settings.max_body_kb * 1024,
        )

    def stop(self) -> None:
        """Drain and end gateways and engine."""
        self._live.stop(self._drain_s)
