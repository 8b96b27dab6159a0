"""Which engines can run here, in which version, what they can do, and how to get the others."""

from __future__ import annotations

import click

from pilothouse.ui.cli.stage import JSON, emit


@click.command("engines", help=__doc__)
@JSON
def command(as_json: bool) -> None:
    """One line an engine."""
    from pilothouse.core import registry
    from pilothouse.ui.cli import show

    rows = []
    for name in registry.modules("engines"):
        engine = registry.create("engines", name)
        check = engine.check()
        rows.append(
            [name, check.version, check.runs, check.reason or check.install, ", ".join(sorted(engine.capabilities))]
        )
    columns = ["engine", "version", "runs here", "how", "can do"]
    if as_json:
        emit([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        show.console().print(show.grid("", columns, rows))
