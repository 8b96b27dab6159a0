"""Ship a project, then serve what came out on loopback, console included, until ctrl-C."""

from __future__ import annotations

from pathlib import Path

import click

from pilothouse.ui.cli.stage import PROJECT


@click.command("up", help=__doc__)
@PROJECT
@click.option("--port", type=click.IntRange(0, 65535), help="Another port than the project's.")
def command(project: Path, port: int | None) -> None:
    """A release that its gates held back is served too, on loopback only and with its verdict shown."""
    from pilothouse.core.project import load_project
    from pilothouse.serve.ports import check_port
    from pilothouse.store.store import Store
    from pilothouse.ui.cli.commands.serve import serve_release
    from pilothouse.ui.cli.commands.ship import turn

    declared = load_project(project)
    check_port(declared.serve.host, declared.serve.port if port is None else port)
    release = turn(project, as_json=False)
    serve_release(declared, Store.open(create=False), release.id, unshipped=not declared.serve.public, port=port)
