"""What every stage command has in common: a project, `--json`, `--fresh`, its report on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pilothouse.core.progress import Progress
    from pilothouse.release.turn import Stage, Turn

PROJECT = click.argument("project", type=click.Path(path_type=Path), default=Path())
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout.")
FRESH = click.option("--fresh", is_flag=True, help="Run again although a finished run is there.")


@contextmanager
def turn_of(path: Path, progress: Progress, *, fresh: frozenset[str] = frozenset()) -> Iterator[Turn]:
    """A turn over the project at `path`, its engines stopped at the end."""
    from pilothouse.core.project import load_project
    from pilothouse.release.turn import Turn
    from pilothouse.store.store import Store

    project = load_project(path)
    store = Store.open()
    try:
        with Turn(project, store, progress, fresh=fresh) as turn:
            yield turn
    finally:
        store.close()


def emit(value: Any) -> None:
    """One JSON object on stdout."""
    from pilothouse.core.records import to_json

    click.echo(to_json(value, pretty=True).decode())


def stage_command(stage: Stage, help_text: str | None) -> click.Command:
    """The command of one stage: runs what it needs first, then shows its report."""

    def run(project: Path, as_json: bool, fresh: bool) -> None:
        from pilothouse.ui.cli import show
        from pilothouse.ui.cli.progress import Terminal

        progress = Terminal()
        with turn_of(project, progress, fresh=frozenset({stage} if fresh else ())) as turn:
            done = run_with_headlines(turn, (stage,), progress)[-1]
        if as_json:
            emit(done)
        elif done.report is not None:
            show.report(show.console(), done.report)

    decorated: Callable[..., None] = PROJECT(JSON(FRESH(run)))
    return click.command(stage, help=help_text)(decorated)


def run_with_headlines(turn: Turn, stages: tuple[Stage, ...], progress: Any) -> list[Any]:
    """Run stages, one headline each: its name, what it found, how long it took or that it was there already."""
    import time

    done = []
    for stage in stages:
        progress.headline(f"{stage} …")
        began = time.time()
        run = turn.run(stage)
        kept = run.ended is not None and run.ended < began
        took = "found a finished run" if kept else f"{time.time() - began:.1f} s"
        summary = run.report.summary if run.report else ""
        progress.headline(f"{stage} ✓ {summary} ({took})")
        done.append(run)
    return done
