"""What does a release rest on, in one page? A self-contained HTML file: verdict, gates, digests and every report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pilothouse.core.records import GateResult, Plot, Report, Table, to_json
from pilothouse.release import charts
from pilothouse.release.record import Release

TEMPLATES = Path(__file__).with_name("templates")
_SYMBOLS = {
    "pass": "✓",
    "ship": "✓",
    "done": "✓",
    "fail": "✗",
    "hold": "✗",
    "failed": "✗",
    "inconclusive": "?",
    "interrupted": "‖",
    "running": "…",
}


def card(release: Release, reports: Mapping[str, Report]) -> str:
    """The page as text. It asks for nothing from elsewhere: styles and plots are inside, there is no script."""
    page = environment().get_template("card.html")
    return page.render(release=release, reports=reports, css=css(), drawn=draw)


@cache
def environment(*folders: Path) -> Environment:
    """Templates with everything escaped and the filters below; `folders` are searched before the card's own."""
    made = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        bytes=size,
        cell=cell,
        duration=duration,
        exact=repr,
        gate_line=gate_line,
        lengthy=lengthy,
        moment=moment,
        number=number,
        numeric=numeric,
        pretty=lambda value: to_json(value, pretty=True).decode(),
        question=question,
        sentence=sentence,
        symbol=lambda word: _SYMBOLS.get(word, "·"),
        whole=lambda value: f"{value:,.0f}",
    )
    return made


@cache
def css() -> Markup:
    """The style sheet that card and console share."""
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))


def draw(plot: Plot, key: str) -> Markup:
    """The plot as inline SVG; a plot without a single point is said to be empty."""
    if not any(y is not None for series in plot.series for y in series.y):
        return Markup('<p class="soft">There is nothing to draw.</p>')
    return Markup(charts.svg(plot, key=key))


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits with the unit; shares as per cent, '–' for none. The exact value stands in the markup."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value * 100:.1f} %"
    if unit == "count":
        return f"{value:,.6g}"
    text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def cell(value: Any) -> str:
    """A table's cell as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def numeric(table: Table, column: int) -> bool:
    """Does the column hold numbers only (and so stands flush right)?"""
    values = [row[column] for row in table.rows if column < len(row) and row[column] is not None]
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def lengthy(table: Table) -> bool:
    """Is the table better folded away at first? Too many rows, or too much text, to pass over on the way down."""
    return len(table.rows) > 12 or sum(len(str(c)) for row in table.rows for c in row) > 2500


def moment(seconds: float | None) -> str:
    """A time as UTC, to the second."""
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def duration(seconds: float | None) -> str:
    """A time span as people say it."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Bytes, short."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} B"


def question(messages: list[Any] | None) -> str:
    """The last user message of a request as kept."""
    last = next((m for m in reversed(messages or []) if isinstance(m, dict) and m.get("role") == "user"), {})
    said = last.get("content", "")
    return said if isinstance(said, str) else to_json(said).decode()


def sentence(release: Release) -> str:
    """The verdict in words."""
    total = len(release.gates)
    failed = [g.name for g in release.gates if g.verdict == "fail"]
    undecided = [g.name for g in release.gates if g.verdict == "inconclusive"]
    if not total:
        return "No gate is declared: there is nothing to decide on."
    parts = []
    if failed:
        parts.append(f"{len(failed)} of {total} gates failed: {', '.join(failed)}.")
    if undecided:
        parts.append(f"{len(undecided)} of {total} gates lack evidence: {', '.join(undecided)}.")
    return " ".join(parts) or f"All {total} gates passed."


def gate_line(gate: GateResult) -> Markup:
    """The gate's small drawing; nothing when there is no value or the rule's bound cannot be read."""
    words = gate.rule.removesuffix(" (value)").split()
    if not gate.measures or gate.measures[0].value is None or not words:
        return Markup("")
    try:
        bound = float(words[-1])
    except ValueError:
        return Markup("")
    return Markup(charts.gate_line(gate.measures[0], bound))
