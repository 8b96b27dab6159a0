"""Which engines stand behind the gateway, what each is called there, and which of them answer right now?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pilothouse.core.wire import Target, target
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.routing.circuit import Circuit

Role = Literal["serve", "fallback", "shadow"]


class Served(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model name means on one engine: body fields that choose it, the default system prompt, the release."""

    fields: dict[str, Any] = {}
    system_prompt: str = ""
    release: str = ""


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine process (a replica) as the gateway sees it.

    group: the deployment it belongs to; weight: that deployment's share of traffic. role: `serve` shares traffic by
    weight, `fallback` answers when none of those can, `shadow` gets copies whose answers nobody sees. capacity:
    requests it answers at a time. rewrites: the engine's `rewrite` must see every request.
    """

    name: str
    url: str
    engine: str = ""
    key: str = ""
    group: str = ""
    role: Role = "serve"
    weight: float = 1.0
    capacity: int = 1
    ready: bool = False
    restarts: int = 0
    failure: str = ""
    lacks: tuple[str, ...] = ()
    rewrites: bool = False
    models: dict[str, Served] = {}

    def __repr__(self) -> str:
        return f"Member({self.name!r}, ready={self.ready})"


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may answer a model's requests: all that serve it, those of them that are ready, and `only`, the ready ones
    where neither a weight nor a fallback has a say (else empty)."""

    serving: tuple[int, ...]
    ready: tuple[int, ...]
    only: tuple[int, ...]


class Fleet:
    """The members now. `update` replaces them; a request under way keeps what it has."""

    def __init__(self, shared: sh.Shared, members: tuple[Member, ...] = ()) -> None:
        self.shared, self.members = shared, tuple[Member, ...]()
        self.rows: dict[str, int] = {}
        self.circuits = [Circuit(shared, row) for row in range(sh.MEMBERS)]
        self.targets: list[Target] = []
        self.plans: dict[str, Plan] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self.shadowed = False
        self.update(members)

    @property
    def models(self) -> list[str]:
        """Names that callers may ask for."""
        return list(self.plans)

    def update(self, members: tuple[Member, ...]) -> None:
        """New state. Members keep their place in the list for as long as the gateway runs."""
        self.members = members
        self.targets = [target(m.url) if m.url else Target("", 0, False, "") for m in members]
        assert len(members) <= sh.MEMBERS
        self.shadowed = any(m.role == "shadow" for m in members)
        names = dict.fromkeys(name for m in members if m.role != "shadow" for name in m.models)
        self.plans = {name: self._plan(name) for name in names}
        for name in names:
            self.rows.setdefault(name, min(len(self.rows), sh.MODELS - 2))
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def serving(self, model: str) -> tuple[int, ...]:
        """Members that have this model, ready or not; () for an unknown name."""
        plan = self.plans.get(model)
        return plan.serving if plan is not None else ()

    def _plan(self, model: str) -> Plan:
        members = self.members
        serving = tuple(i for i, m in enumerate(members) if model in m.models and m.role != "shadow")
        ready = tuple(i for i in serving if members[i].ready)
        first = tuple(i for i in ready if members[i].role == "serve")
        alone = len({members[i].group for i in first}) == 1
        return Plan(serving, ready, first if alone else ready if len(ready) == 1 else ())

    def shadows(self, model: str) -> list[int]:
        """Members that get a copy."""
        return [i for i, m in enumerate(self.members) if m.role == "shadow" and m.ready and model in m.models]

    def is_open(self, row: int) -> bool:
        """Is this member left alone for now?"""
        return self.circuits[row].is_open()

    def any_ready(self) -> bool:
        """Does any engine answer?"""
        return any(m.ready for m in self.members if m.role != "shadow")

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next update; False when none came."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return False
        return True

    def begin(self, row: int, tokens: float) -> None:
        """A request of about so many tokens goes to this member."""
        table = self.shared.members
        cells, at = table.cells, table.at(row)
        cells[at + sh.M_RUNNING] += 1.0
        cells[at + sh.M_TOKENS] += tokens

    def end(self, row: int, tokens: float) -> None:
        """It is over."""
        table = self.shared.members
        cells, at = table.cells, table.at(row)
        cells[at + sh.M_RUNNING] -= 1.0
        cells[at + sh.M_TOKENS] -= tokens
