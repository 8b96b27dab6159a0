"""Show a release (the newest by default), a run or an asset."""

from __future__ import annotations

import click

from pilothouse.ui.cli.stage import JSON, emit


@click.command("show", help=__doc__)
@click.argument("what", type=click.Choice(["release", "run", "asset"]))
@click.argument("name", required=False)
@JSON
def command(what: str, name: str | None, as_json: bool) -> None:
    """A release and an id may be cut to a unique beginning."""
    from pilothouse.core.errors import UserError
    from pilothouse.release import record
    from pilothouse.store import runs
    from pilothouse.store.store import Store
    from pilothouse.ui.cli import show

    store = Store.open(create=False)
    out = show.console()
    if what == "release":
        release = record.get(store, name)
        reports = record.reports(store, release)
        if as_json:
            emit({**_fields(release), "reports": reports})
            return
        for report in reports.values():
            show.report(out, report, tables=False)
            out.print()
        out.print(show.gates(release.gates))
        show.verdict(out, release.verdict, about=release.id)
        return
    if name is None:
        raise UserError(f"which {what}?", fix=f"Name one of: pilothouse list {what}s")
    if what == "asset":
        asset = store.asset(name)
        if as_json:
            emit(asset)
        else:
            facts = {"ref": asset.ref, "digest": asset.digest, "licence": asset.licence, "origin": asset.origin}
            out.print(show.grid("", ("", ""), [*facts.items(), *asset.meta.items()]))
            out.print(
                show.grid("files", ("path", "bytes", "sha256"), [(f.path, f.size, f.sha256) for f in asset.files])
            )
        return
    run = runs.find(store, name)
    if run is None:
        raise UserError(f"no run is called {name!r}", fix="See: pilothouse list runs")
    if as_json:
        emit(run)
    else:
        state: dict[str, object] = {
            "id": run.id,
            "status": run.status,
            "attempts": run.attempts,
            "error": run.error or "",
        }
        out.print(show.grid("", ("", ""), state.items()))
        if run.report:
            show.report(out, run.report)


def _fields(release: object) -> dict[str, object]:
    import msgspec

    plain = msgspec.to_builtins(release)
    assert isinstance(plain, dict)
    return plain
