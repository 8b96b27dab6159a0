"""Records as text for a terminal: measures with their intervals, tables, gates. Width-safe, colour never alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.core.records import GateResult, Measure, Report

_MARK = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive"}
_COLOUR = {"pass": "green", "fail": "red", "inconclusive": "yellow", "ship": "green", "hold": "red"}


def console() -> Console:
    """stdout; 100 columns when it is no terminal, so that piped tables stay readable."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=100, no_color=True)


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits, shares as per cent, '–' for none."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value * 100:.1f} %"
    text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def measures(items: Iterable[Measure]) -> Table:
    """Measures, one a line."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("measure", "left"), ("value", "right"), ("95 % interval", "left"), ("n", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("method", style="dim", overflow="fold")
    for m in items:
        between = "" if m.low is None and m.high is None else f"{number(m.low, m.unit)} … {number(m.high, m.unit)}"
        table.add_row(Text(m.name), number(m.value, m.unit), between, str(m.n or ""), Text(m.method))
    return table


def grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table of any cells."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(c)) for c in row))
    return table


def gates(results: Iterable[GateResult]) -> Table:
    """Gates with their reasons."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("gate", "verdict", "why"):
        table.add_column(name, overflow="fold")
    for r in results:
        table.add_row(Text(r.name), Text(_MARK[r.verdict], style=_COLOUR.get(r.verdict, "")), Text(r.reason))
    return table


def report(out: Console, item: Report, *, tables: bool = True) -> None:
    """A whole report: sentence, facts, measures, tables."""
    out.print(Text(item.title, style="bold"))
    out.print(Text(item.summary))
    if item.facts:
        out.print(grid("", ("", ""), item.facts.items()))
    if item.measures:
        out.print(measures(item.measures))
    for t in item.tables if tables else ():
        out.print()
        out.print(grid(t.title, t.columns, t.rows))
        if t.note:
            out.print(Text(t.note, style="dim"))


def verdict(out: Console, word: str, *, about: str) -> None:
    """The last word, in words, with a colour that only helps."""
    sentence = {
        "ship": "ship: every gate passed",
        "hold": "hold: a gate failed",
        "inconclusive": "inconclusive: there is not enough evidence",
    }[word]
    out.print(Text(f"{about}  →  {sentence}", style=f"bold {_COLOUR.get(word, 'yellow')}"))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
