"""What is served: an engine with its model, how often, under which names, with which share of the traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pilothouse.core import registry
from pilothouse.core.machine import cores
from pilothouse.serve.base import CAPABILITIES, Engine, EngineSpec, as_it_is
from pilothouse.serve.gateway.routing.fleet import Member, Role, Served
from pilothouse.serve.supervisor import Supervisor

_THREADED = ("llamacpp", "triton", "openvino")
"""Engines whose option `threads` is every core by default: replicas of them would fight."""


@dataclass(frozen=True)
class Route:
    """What a model name means: an adapter (None: the base model), the default system prompt, the release's id."""

    adapter: str | None = None
    system_prompt: str = ""
    release: str = ""


@dataclass(frozen=True)
class Deployment:
    """An engine with what it serves. routes: model name → what it means there.

    role: `serve` shares traffic by weight, `fallback` answers when none of those can (in the order given), `shadow`
    gets copies whose answers nobody sees.
    """

    name: str
    engine: str
    spec: EngineSpec
    routes: Mapping[str, Route]
    replicas: int = 1
    role: Role = "serve"
    weight: float = 1.0
    where: str = "pilothouse.yaml: serve"
    """The section of the project that declares it; engines' errors name it."""

    @property
    def names(self) -> list[str]:
        """One a replica: what figures, events and log folders call it."""
        return [self.name] if self.replicas == 1 else [f"{self.name}-{i}" for i in range(self.replicas)]

    def knowledge(self) -> Engine:
        """The engine's own file."""
        engine: Engine = registry.create("engines", self.engine, where=f"{self.where}.engine")
        return engine

    def specs(self) -> list[EngineSpec]:
        """One a replica. They share the machine's cores, where the project does not say otherwise."""
        spec = replace(self.spec, replicas=self.replicas)
        if self.replicas > 1 and self.engine in _THREADED and "threads" not in spec.options:
            share = {"threads": max(1, cores() // self.replicas)}
            spec = replace(spec, options={**spec.options, **share})
        return [spec] * self.replicas


def member(deployment: Deployment, supervisor: Supervisor, place: int) -> Member:
    """What the gateway knows of one replica now."""
    engine = supervisor.engine
    can = engine.can(supervisor.spec)
    lacks = tuple(c for c in CAPABILITIES if c not in can)
    served = {
        name: Served(
            fields={"model": supervisor.alias, **engine.fields(route.adapter, supervisor.spec)},
            system_prompt=route.system_prompt,
            release=route.release,
        )
        for name, route in deployment.routes.items()
    }
    return Member(
        name=deployment.names[place],
        url=supervisor.url,
        engine=deployment.engine,
        key=supervisor.api_key,
        group=deployment.name,
        role=deployment.role,
        weight=deployment.weight,
        capacity=deployment.spec.streams,
        ready=supervisor.ready.is_set(),
        restarts=supervisor.restarts,
        failure=supervisor.failure,
        lacks=lacks,
        rewrites=engine.rewrite is not as_it_is,
        models=served,
    )
