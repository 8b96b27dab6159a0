"""Which split a row belongs to when the project gives none: by group, by seed, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Row


def split(
    rows: Sequence[Row], shares: Mapping[str, float], *, seed: int, where: str = "data.split"
) -> dict[str, list[Row]]:
    """Cut rows into the named splits near these shares; a group (a row without one is its own) stays whole.

    Groups come in the order of sha256(seed, group); each goes to the split that lacks most rows of its due. Rows keep
    their order within a split.
    """
    wanted = {name: share for name, share in shares.items() if share > 0}
    total = sum(wanted.values())
    groups: dict[str, int] = defaultdict(int)
    for row in rows:
        groups[_group(row)] += 1
    if len(groups) < len(wanted):
        raise UserError(
            f"{len(groups)} groups of rows cannot be cut into {len(wanted)} splits",
            where=where,
            fix="Give the splits as files of their own, or more groups.",
        )
    due = {name: share / total * len(rows) for name, share in wanted.items()}
    place: dict[str, str] = {}
    order = sorted(groups, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest())
    for group in order:
        name = max(due, key=lambda n: (due[n], wanted[n]))
        place[group] = name
        due[name] -= groups[group]
    made: dict[str, list[Row]] = {name: [] for name in wanted}
    for row in rows:
        made[place[_group(row)]].append(row)
    if empty := [name for name, mine in made.items() if not mine]:
        raise UserError(f"no group of rows is left for {', '.join(empty)}", where=where, fix="Groups are too large.")
    return made


def _group(row: Row) -> str:
    return f"g:{row.group}" if row.group else f"r:{row.id}"
