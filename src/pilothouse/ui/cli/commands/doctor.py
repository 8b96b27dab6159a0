"""Check the store and this machine; clean what a crash left behind, and say what was cleaned."""

from __future__ import annotations

import click

from pilothouse.ui.cli.stage import JSON, emit


@click.command("doctor", help=__doc__)
@click.option("--deep", is_flag=True, help="Read every file again and compare its digest.")
@JSON
def command(deep: bool, as_json: bool) -> None:
    """Exit code 2 when something is broken that only the user can mend."""
    from pilothouse.serve import orphans
    from pilothouse.store import doctor
    from pilothouse.store.store import Store
    from pilothouse.ui.cli import show

    store = Store.open(create=False)
    remarks = doctor.check(store, deep=deep)
    engines = store.root / "engines"
    if engines.exists():
        folders = [engines, *(p for p in engines.rglob("*") if p.is_dir())]
        remarks += [doctor.Remark("cleaned", ended) for folder in folders for ended in orphans.end(folder)]
    if as_json:
        emit(remarks)
    else:
        show.console().print(
            show.grid(str(store.root), ("", "what", "what to do"), [(r.state, r.what, r.fix) for r in remarks])
        )
    if any(r.state == "broken" for r in remarks):
        click.get_current_context().exit(2)
