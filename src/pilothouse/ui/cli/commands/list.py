"""List releases, runs, assets, or the members of a kind (engines, metrics, detectors, probes, …)."""

from __future__ import annotations

import time

import click

from pilothouse.ui.cli.stage import JSON, emit

_MEMBERS = ("sources", "loaders", "methods", "metrics", "probes", "detectors", "engines", "arrivals")
_KEPT = ("releases", "runs", "assets")


@click.command("list", help=__doc__)
@click.argument("kind", type=click.Choice([*_KEPT, *_MEMBERS]))
@JSON
def command(kind: str, as_json: bool) -> None:
    """Newest first."""
    from pilothouse.ui.cli import show

    columns, rows = _members(kind) if kind in _MEMBERS else _kept(kind)
    if as_json:
        emit([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        show.console().print(show.grid("", columns, rows))
    else:
        click.echo(f"no {kind} yet")


def _members(kind: str) -> tuple[list[str], list[list[str]]]:
    from pilothouse.core import registry

    rows = []
    for name in registry.modules(kind):
        doc = (registry.module(kind, name).__doc__ or "").strip().partition("\n")[0]
        lack = registry.missing(kind, name)
        rows.append([name, doc, f"needs {', '.join(lack)}" if lack else "ready"])
    return ["name", "what", "state"], rows


def _kept(kind: str) -> tuple[list[str], list[list[str]]]:
    from pilothouse.release import record
    from pilothouse.store import runs
    from pilothouse.store.store import Store

    store = Store.open(create=False)
    if kind == "releases":
        return ["id", "verdict", "created"], [[r.id, r.verdict, _when(r.created)] for r in record.every(store)]
    if kind == "runs":
        rows = [
            [
                r.id,
                r.project,
                r.status,
                _when(r.started),
                f"{r.ended - r.started:.1f} s" if r.ended else "",
                r.error or "",
            ]
            for r in runs.every(store)
        ]
        return ["id", "project", "status", "started", "took", "error"], rows
    assets = [[a.ref, f"{a.size / 1e6:.1f} MB", a.licence, _when(a.created)] for a in store.assets()]
    return ["asset", "size", "licence", "created"], assets


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
