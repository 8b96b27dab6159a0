"""One full turn of the loop: choose … measure, the gates, the verdict, the release card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilothouse.ui.cli.stage import JSON, PROJECT, emit, run_with_headlines, turn_of

if TYPE_CHECKING:
    from pilothouse.release.record import Release


@click.command("ship", help=__doc__)
@PROJECT
@JSON
@click.option("--fresh", multiple=True, metavar="STAGE", help="Run this stage again (may be repeated; 'all').")
def command(project: Path, as_json: bool, fresh: tuple[str, ...]) -> None:
    """Exit code 0: ship, 1: hold, 2: bad input, 3: not enough evidence."""
    from pilothouse.release.gates import EXIT_CODE

    release = turn(project, as_json=as_json, fresh=fresh)
    click.get_current_context().exit(EXIT_CODE[release.verdict])  # type: ignore[index]


def turn(project: Path, *, as_json: bool, fresh: tuple[str, ...] = ()) -> Release:
    """Make the turn, show gates and verdict, write the card; returns the release."""
    import os
    import time

    from pilothouse.core.errors import UserError
    from pilothouse.release.card import card
    from pilothouse.release.record import reports
    from pilothouse.release.turn import STAGES
    from pilothouse.ui.cli import show
    from pilothouse.ui.cli.progress import Terminal

    unknown = [s for s in fresh if s != "all" and s not in STAGES]
    if unknown:
        raise UserError(f"no stage is called {unknown[0]!r}", where="--fresh", fix=f"Stages: {', '.join(STAGES)}.")
    began = float(os.environ.get("PILOTHOUSE_STARTED", time.time()))
    progress = Terminal()
    with turn_of(project, progress, fresh=frozenset(STAGES if "all" in fresh else fresh)) as made:
        run_with_headlines(made, STAGES, progress)
        release = made.release()
        page = made.store.root / "cards" / f"{release.id}.html"
        page.parent.mkdir(exist_ok=True)
        draft = page.with_suffix(".part")
        draft.write_text(card(release, reports(made.store, release)), encoding="utf-8")
        draft.replace(page)
    if as_json:
        emit(release)
        return release
    out = show.console()
    out.print(show.gates(release.gates))
    show.verdict(out, release.verdict, about=release.id)
    out.print(f"card: {page}")
    minutes, seconds = divmod(int(time.time() - began), 60)
    out.print(f"elapsed: {minutes} min {seconds:02d} s")
    return release
