"""Start a project: a folder with a commented pilothouse.yaml and a few example rows to replace."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("init", help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Refuses a folder that already has a pilothouse.yaml."""
    import re
    from importlib.resources import files

    from pilothouse.core.errors import UserError

    target = folder / "pilothouse.yaml"
    if target.exists():
        raise UserError("there is already a project here", where=str(target), fix="Edit it, or choose another folder.")
    name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-") or "project"
    template = files("pilothouse.ui.cli") / "template"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in ("rows.jsonl", "pilothouse.yaml"):
            text = (template / path).read_text(encoding="utf-8").replace("PROJECT", name)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as e:
        raise UserError(f"cannot write ({e.strerror})", where=str(folder)) from None
    click.echo(f"{target} written. Put your rows in {folder / 'rows.jsonl'}, then: pilothouse ship {folder}")
