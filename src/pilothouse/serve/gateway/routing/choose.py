"""Which member should answer? The one that would be done with it first, among those the traffic's shares allow.

Work is counted in tokens: what a member still owes, plus what this prompt costs it, less the beginning that it has in
its cache, plus a little where it would have to change its adapter. A session stays where it is unless that member is
much busier than the least busy. A deployment is drawn by weight first; the same session always draws the same one.
"""

from __future__ import annotations

from hashlib import blake2b
from random import random

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.routing.circuit import FAILURES
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.routing.prefix import Prefixes, blocks

_SWITCH_TOKENS = 64.0
"""llama.cpp does not batch requests of different adapters together: a change waits for the running ones."""
_STAY_TOKENS = 2048.0
_SHORT = 1024
"""Bytes: to compute about 250 tokens again costs an engine less than a wrong turn."""
_FULL_CACHE = 0.95


class Chooser:
    """The choice, with what it remembers. Written for speed: it runs once a request, over memory that others write."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._prefixes = fleet, Prefixes(fleet.shared)
        self._turn = 0

    def choose(self, model: str, prompt: bytes, tokens: float, session: str, tried: tuple[int, ...] = ()) -> int:
        """A ready member's place, or -1 when none is left to try. prompt: its bytes, from where the text begins;
        tokens: about how many."""
        fleet = self._fleet
        plan = fleet.plans.get(model)
        if plan is None:
            return -1
        group = plan.only
        circuits, width = fleet.shared.circuits.cells, len(sh.CIRCUIT_COLUMNS)
        start = fleet.shared.circuits.at(0)
        if len(plan.serving) == 1:  # with nobody else to ask, its circuit says nothing
            return group[0] if group and not tried else -1
        if not group or tried or any(circuits[start + i * width] >= FAILURES for i in group):
            group = self._group([i for i in plan.ready if i not in tried and not fleet.is_open(i)], session)
        if len(group) < 2:
            return group[0] if group else -1
        if len(prompt) < _SHORT and not session:
            return self._idlest(group, model)
        return self._least(group, model, prompt, tokens, session)

    def _idlest(self, group: tuple[int, ...], model: str) -> int:
        """The member that owes least: a prompt too short to be worth a cache's while."""
        self._turn = turn = self._turn + 1
        n, circuits, owed = len(group), self._fleet.shared.circuits, self._owed
        adapter, column = float(self._fleet.rows.get(model, 0) + 1), circuits.at(0) + sh.C_ADAPTER
        cells, width = circuits.cells, len(sh.CIRCUIT_COLUMNS)
        best, least = -1, float("inf")
        for place in range(n):
            i = group[(place + turn) % n]  # equal ones take turns
            cost = owed(i)
            if cost and cells[column + i * width] not in (0.0, adapter):
                cost += _SWITCH_TOKENS
            if cost < least:
                best, least = i, cost
        cells[column + best * width] = adapter
        return best

    def _group(self, able: list[int], session: str) -> tuple[int, ...]:
        """The members of one deployment, drawn by weight; where none of those can, the first fallback."""
        members = self._fleet.members
        first = [i for i in able if members[i].role == "serve"]
        if not first:
            return tuple(able[:1])
        weights = {members[i].group: members[i].weight for i in first}
        if len(weights) == 1:
            return tuple(first)
        point = (_point(session) if session else random()) * sum(weights.values())
        name = ""
        for name, weight in weights.items():  # noqa: B007
            point -= weight
            if point < 0:
                break
        return tuple(i for i in first if members[i].group == name)

    def _least(self, group: tuple[int, ...], model: str, prompt: bytes, tokens: float, session: str) -> int:
        shared, hashes = self._fleet.shared, blocks(prompt)
        circuits, adapter = shared.circuits.cells, float(self._fleet.rows.get(model, 0) + 1)
        self._turn = turn = self._turn + 1
        best, least, owed = -1, float("inf"), dict[int, float]()
        for place in range(len(group)):
            i = group[(place + turn) % len(group)]  # equal ones take turns
            owes = owed[i] = self._owed(i)
            cost = owes + tokens
            if hashes:
                cost -= tokens * self._prefixes.share(hashes, i)
            if owes and circuits[shared.circuits.at(i) + sh.C_ADAPTER] not in (0.0, adapter):
                cost += _SWITCH_TOKENS
            if cost < least:
                best, least = i, cost
        if session:
            home = max(group, key=lambda i: _point(f"{session}/{i}"))  # rendezvous hashing
            if owed[home] <= min(owed.values()) + _STAY_TOKENS:
                best = home
        if hashes:
            self._prefixes.note(hashes, best)
        shared.circuits.set(best, sh.C_ADAPTER, adapter)
        return best

    def _owed(self, i: int) -> float:
        """Tokens outstanding, with what the engine itself says of requests that did not come through us."""
        shared = self._fleet.shared
        members, cells = shared.members, shared.gauges.cells
        owed = members.total(i, sh.M_TOKENS) if shared.many else members.cells[members.at(i) + sh.M_TOKENS]
        at = shared.gauges.at(i)
        if cells[at + sh.G_KV] > _FULL_CACHE:
            owed += _STAY_TOKENS
        return owed + _SWITCH_TOKENS * cells[at + sh.G_WAITING]  # type: ignore[no-any-return]


def _point(text: str) -> float:
    """A point in [0, 1) that belongs to a text. (A checksum would not do: equal endings move it by equal amounts.)"""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
