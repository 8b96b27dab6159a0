"""Where did this come from? Walks from a release, an exchange or an asset back to the rows and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilothouse.ui.cli.stage import JSON, emit

if TYPE_CHECKING:
    from rich.tree import Tree

    from pilothouse.store.lineage import Node
    from pilothouse.store.store import Store


@click.command("lineage", help=__doc__)
@click.argument("name")
@JSON
def command(name: str, as_json: bool) -> None:
    """NAME: kind:name@digest, a digest, a release id, or an exchange's id (x-request-id)."""
    from rich.tree import Tree

    from pilothouse.store import lineage
    from pilothouse.store.store import Store
    from pilothouse.ui.cli import show

    store = Store.open(create=False)
    title, digests = _starts(store, name)
    nodes = [lineage.upstream(store, store.asset(d), role=role) for role, d in digests.items()]
    if as_json:
        emit({"of": title, "made_of": nodes})
        return
    tree = Tree(title)
    for node in nodes:
        _grow(tree, node)
    show.console().print(tree)


def _starts(store: Store, name: str) -> tuple[str, dict[str, str]]:
    """What to walk from: title and role → digest."""
    import sqlalchemy as sa

    from pilothouse.core.errors import UserError
    from pilothouse.release import record
    from pilothouse.store import schema

    with store.engine.connect() as c:
        release = c.execute(sa.select(schema.exchanges.c.release).where(schema.exchanges.c.id == name)).scalar()
    if release:
        return f"exchange {name} of release {release}", record.get(store, release).digests
    if any(r.id == name for r in record.every(store)):
        return f"release {name}", record.get(store, name).digests
    try:
        asset = store.asset(name)
    except UserError:
        raise UserError(
            f"no asset, release or exchange matches {name!r}",
            where=str(store.root),
            fix="See: pilothouse list assets, pilothouse list releases",
        ) from None
    return asset.ref, {"": asset.digest}


def _grow(tree: Tree, node: Node) -> None:
    from rich.markup import escape

    made = f"made by {node.run}" if node.run else f"from {node.origin or 'outside'}"
    licence = f", {node.licence}" if node.licence else ""
    role = f"{node.role}: " if node.role else ""
    branch = tree.add(escape(f"{role}{node.ref}  ({made}{licence})"))
    for parent in node.parents:
        _grow(branch, parent)
