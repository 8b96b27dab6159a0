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
_FULL_CACHE = 0.95


class Chooser:
    """The choice, with what it remembers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._prefixes = fleet, Prefixes(fleet.shared)
        self._turn = 0

    def choose(self, model: str, prompt: bytes, tokens: float, session: str, tried: tuple[int, ...] = ()) -> int:
        """A ready member's place, or -1 when none is left to try. prompt: its bytes, from
        where the text begins; tokens: about how many."""
        fleet = self._fleet
        serving = fleet.serving(model)
        if len(serving) == 1:  # the usual case costs nothing; with nobody else to ask, its circuit says nothing either
            only = serving[0]
            return only if fleet.members[only].ready and only not in tried else -1
        members, failures = fleet.members, fleet.shared.circuits
        able = [
            i
            for i in serving
            if members[i].ready
            and i not in tried
            and not (failures.own(i, sh.C_FAILURES) >= FAILURES and fleet.is_open(i))
        ]
        first = [i for i in able if members[i].role == "serve"]
        if not first:  # fallbacks in their order
            return able[0] if able else -1
        group = self._group(first, session)
        if len(group) == 1:
            return group[0]
        return self._least(group, model, prompt, tokens, session)

    def _group(self, able: list[int], session: str) -> list[int]:
        """The members of one deployment, drawn by weight."""
        members = self._fleet.members
        weights = {members[i].group: members[i].weight for i in able}
        if len(weights) == 1:
            return able
        point = (_point(session) if session else random()) * sum(weights.values())
        name = ""
        for name, weight in weights.items():  # noqa: B007
            point -= weight
            if point < 0:
                break
        return [i for i in able if members[i].group == name]

    def _least(self, group: list[int], model: str, prompt: bytes, tokens: float, session: str) -> int:
        shared, hashes = self._fleet.shared, blocks(prompt)
        owed = {i: self._owed(i) for i in group}
        adapter = float(self._fleet.rows.get(model, 0) + 1)
        best, least = -1, float("inf")
        self._turn += 1
        for place in range(len(group)):
            i = group[(place + self._turn) % len(group)]  # equal ones take turns
            cost = owed[i] + tokens
            if hashes:
                cost -= tokens * self._prefixes.share(hashes, i)
            if owed[i] and shared.circuits.own(i, sh.C_ADAPTER) not in (0.0, adapter):
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
        owed = shared.members.total(i, sh.M_TOKENS)
        cells, at = shared.gauges.cells, shared.gauges.at(i)
        if cells[at + sh.G_KV] > _FULL_CACHE:
            owed += _STAY_TOKENS
        return float(owed + _SWITCH_TOKENS * cells[at + sh.G_WAITING])


def _point(text: str) -> float:
    """A point in [0, 1) that belongs to a text. (A checksum would not do: equal endings move it by equal amounts.)"""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
