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

    Groups come in the order of sha256(seed, group); each goes to the split that lacks most rows of its due, and the
    last ones to splits that would stay empty. Rows keep their order within a split.
    """
    if bad := [name for name, share in shares.items() if share <= 0]:
        raise UserError(f"the share of {bad[0]} must be above 0, got {shares[bad[0]]:g}", where=where)
    groups: dict[str, int] = defaultdict(int)
    for row in rows:
        groups[_group(row)] += 1
    if len(groups) < len(shares):
        raise UserError(
            f"{len(groups)} groups of rows cannot be cut into {len(shares)} splits",
            where=where,
            fix="Give the splits as files of their own, or more groups.",
        )
    total = sum(shares.values())
    due = {name: share / total * len(rows) for name, share in shares.items()}
    place: dict[str, str] = {}
    order = sorted(groups, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest())
    empty = list(due)
    for i, group in enumerate(order):
        open_to = empty if len(order) - i <= len(empty) else list(due)
        name = max(open_to, key=lambda n: (due[n], shares[n]))
        if name in empty:
            empty.remove(name)
        place[group] = name
        due[name] -= groups[group]
    made: dict[str, list[Row]] = {name: [] for name in shares}
    for row in rows:
        made[place[_group(row)]].append(row)
    return made


def _group(row: Row) -> str:
    return f"g:{row.group}" if row.group else f"r:{row.id}"
