"""Where did this asset come from? Walks from an asset through the runs that made it to the assets they read."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from pilothouse.core.records import Asset
from pilothouse.store import schema
from pilothouse.store.store import Store


class Node(msgspec.Struct, frozen=True):
    """An asset, the run that made it ('' for one that came from outside) and what that run read."""

    ref: str
    digest: str
    role: str
    origin: str
    licence: str
    run: str
    parents: tuple[Node, ...]


def upstream(store: Store, asset: Asset, *, role: str = "") -> Node:
    """The tree of everything that `asset` was made of. Content addressing keeps it free of circles."""
    return _walk(store, asset, role, frozenset())


def downstream(store: Store, asset: Asset) -> list[tuple[str, str, str]]:
    """(run id, output role, digest) of everything that was made directly from `asset`."""
    link = schema.run_assets
    made = link.alias()
    query = (
        sa.select(link.c.run, made.c.role, made.c.digest)
        .join(made, sa.and_(made.c.run == link.c.run, made.c.direction == "output"))
        .where(link.c.direction == "input", link.c.digest == asset.digest)
        .order_by(link.c.run, made.c.role)
    )
    with store.engine.connect() as c:
        return [(row.run, row.role, row.digest) for row in c.execute(query)]


def _walk(store: Store, asset: Asset, role: str, above: frozenset[str]) -> Node:
    link, run = schema.run_assets, schema.runs
    query = (
        sa.select(link.c.run)
        .join(run, run.c.id == link.c.run)
        .where(link.c.direction == "output", link.c.digest == asset.digest, run.c.status == "done")
        .order_by(run.c.ended.desc())
        .limit(1)
    )
    with store.engine.connect() as c:
        maker = c.execute(query).scalar()
        inputs = (
            c.execute(
                sa.select(link.c.role, link.c.digest)
                .where(link.c.run == maker, link.c.direction == "input")
                .order_by(link.c.role)
            ).all()
            if maker
            else []
        )
    seen = above | {asset.digest}
    parents = tuple(_walk(store, store.asset(d), r, seen) for r, d in inputs if d not in seen)
    return Node(asset.ref, asset.digest, role, asset.origin, asset.licence, maker or "", parents)
