"""Which engines can run here, in which version, what they can do, and how to get the others; NAME: its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pilothouse.ui.cli.stage import JSON, emit

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 80
_READS = {"gguf": "GGUF files", "hf": "Hugging Face folders", "none": "nothing: the service has the model"}


@click.command("engines", help=__doc__)
@click.argument("name", required=False)
@JSON
def command(name: str | None, as_json: bool) -> None:
    """A block an engine."""
    from pilothouse.core import registry
    from pilothouse.ui.cli import show

    found = [_engine(each) for each in ([name] if name else registry.modules("engines"))]
    if as_json:
        emit(found[0] if name else found)
        return
    out = show.console()
    for engine in found:
        _print(out, engine)
        if name:
            _print_options(out, engine["options"])
        out.print()
    if not name:
        out.print("pilothouse engines NAME lists an engine's options for serve.options.", width=_WIDTH)


def _engine(name: str) -> dict[str, Any]:
    """All that an engine's file says of itself; nothing is started."""
    from pilothouse.core import registry

    module = registry.module("engines", name)
    engine = registry.create("engines", name)
    check = engine.check()
    return {
        "engine": name,
        "about": (module.__doc__ or "").strip().partition("\n")[0],
        "version": check.version,
        "runs_here": check.runs,
        "reason": check.reason,
        "install": check.install,
        "reads": engine.format,
        "can": sorted(engine.capabilities),
        "options": [
            {
                "name": option.name,
                "type": option.type_name,
                "default": option.default,
                "meaning": option.meaning,
                "choices": list(option.choices),
                "low": option.low,
            }
            for option in getattr(module, "OPTIONS", ())
        ],
    }


def _print(out: Console, engine: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    runs = "runs here" if engine["runs_here"] else "does not run here"
    head = Text(engine["engine"], style="bold")
    head.append(f"  {engine['version']}" if engine["version"] else "", style="not bold")
    head.append(f"  {runs}", style="not bold green" if engine["runs_here"] else "not bold yellow")
    out.print(head, width=_WIDTH)
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1), width=_WIDTH)
    facts.add_column(width=9, style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("", Text(engine["about"]))
    if engine["reason"]:
        facts.add_row("  why not", Text(engine["reason"]))
    if engine["install"] and not engine["runs_here"]:
        facts.add_row("  install", Text(engine["install"]))
    facts.add_row("  can", Text(", ".join(word.replace("_", " ") for word in engine["can"])))
    facts.add_row("  reads", Text(_READS[engine["reads"]]))
    out.print(facts)


def _print_options(out: Console, options: list[dict[str, Any]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    out.print()
    out.print("Its options, under serve.options:" if options else "It has no options of its own.")
    for option in options:
        head = Text(f"  {option['name']}", style="bold")
        head.append(f"  {option['type']}, default {_default(option['default'])}", style="not bold dim")
        out.print(head, width=_WIDTH)
        said = option["meaning"] + (f" Possible: {', '.join(option['choices'])}." if option["choices"] else "")
        out.print(Padding(Text(said), (0, 0, 0, 6)), width=_WIDTH)


def _default(value: Any) -> str:
    if value is None or value in ((), "", {}):
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
