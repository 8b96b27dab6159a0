"""How does a plot look? `core.records.Plot` → one inline SVG that follows the page's colours, light or dark.

Colours are drawn as placeholders and become CSS variables, so one drawing serves both themes; series differ by marker
and dash too. Text stays text. The same plot and key give the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pilothouse.core.errors import need
from pilothouse.core.records import Measure, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _QUIET = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_MARKERS, _DASHES = "os^Dv*", ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_VARIABLES = {
    _INK: "currentColor",
    _QUIET: "var(--quiet)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, 1)},
}
_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings belong to the process
_WIDTH, _HEIGHT = 4.6, 2.6  # inches; small, so that 8 pt text stays readable on a narrow screen
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "grid.color": _QUIET,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
}


def svg(plot: Plot, *, key: str) -> str:
    """The plot as an `<svg>` element. key: unique in the page; it makes the element ids."""
    need("matplotlib", "console", "drawing plots")
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _ONE_AT_A_TIME, rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(_WIDTH, _height(plot)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        {"line": _line, "interval": _interval, "bar": _bar, "ecdf": _ecdf}[plot.kind](axes, plot)
        if len(plot.series) > 1:
            figure.legend(loc="outside upper left", ncols=3)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), key, plot.title)


def gate_line(measure: Measure, bound: float) -> str:
    """A gate's evidence as one small line: interval, value and bound. Decoration: the words stand beside."""
    known = [v for v in (measure.low, measure.value, measure.high, bound) if v is not None]
    span = (max(known) - min(known)) or abs(bound) or 1.0
    left, width = min(known) - 0.08 * span, 1.16 * span

    def x(value: float) -> float:
        return round(6 + 108 * (value - left) / width, 2)

    parts = [f'<line x1="{x(bound)}" x2="{x(bound)}" y1="2" y2="18" class="bound"/>']
    if measure.low is not None and measure.high is not None:
        parts.append(f'<line x1="{x(measure.low)}" x2="{x(measure.high)}" y1="10" y2="10" class="whisker"/>')
    if measure.value is not None:
        parts.append(f'<circle cx="{x(measure.value)}" cy="10" r="3.2" class="dot"/>')
    return f'<svg class="gate-line" viewBox="0 0 120 20" aria-hidden="true">{"".join(parts)}</svg>'


def _line(axes: Axes, plot: Plot) -> None:
    for n, series in enumerate(plot.series):
        x, y = series.x, [math.nan if v is None else v for v in series.y]  # what is missing leaves a gap
        colour = _SERIES[n % len(_SERIES)]
        marker = _MARKERS[n % len(_MARKERS)] if len(x) <= 40 else None
        axes.plot(x, y, color=colour, linestyle=_DASHES[n % len(_DASHES)], marker=marker, label=series.name)
        if series.low and series.high:
            sides = zip(series.x, series.low, series.high, strict=True)
            band = [(a, lo, hi) for a, lo, hi in sides if lo is not None and hi is not None]
            if band:
                at, low, high = zip(*band, strict=True)
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    _frame(axes, plot.x_label, plot.y_label)


def _interval(axes: Axes, plot: Plot) -> None:
    """Dots and whiskers, one row a category, from the top down: labels stay readable however long they are."""
    labels = _categories(plot)
    step = 0.8 / max(1, len(plot.series))
    for n, series in enumerate(plot.series):
        offset = (n - (len(plot.series) - 1) / 2) * step
        colour = _SERIES[n % len(_SERIES)]
        rows = [labels.index(str(x)) + offset for x in series.x]
        for k, row in enumerate(rows):
            low, high = _at(series.low, k), _at(series.high, k)
            value = series.y[k]
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
            if value is not None:
                axes.annotate(
                    f"{value:.3g}", (value, row), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=7
                )
        kept = [(v, r) for v, r in zip(series.y, rows, strict=True) if v is not None]
        if kept:
            xs, ys = zip(*kept, strict=True)
            axes.plot(xs, ys, linestyle="", marker=_MARKERS[n % len(_MARKERS)], color=colour, label=series.name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.set_xlabel(plot.y_label or plot.x_label)
    axes.grid(axis="x")


def _bar(axes: Axes, plot: Plot) -> None:
    """Bars beside one another; lying, from the top down, when their labels are too long to stand side by side."""
    labels, lying = _categories(plot), _lying(plot)
    width = 0.8 / max(1, len(plot.series))
    for n, series in enumerate(plot.series):
        offset = (n - (len(plot.series) - 1) / 2) * width
        kept = [k for k, value in enumerate(series.y) if value is not None]
        places = [labels.index(str(series.x[k])) + offset for k in kept]
        (axes.barh if lying else axes.bar)(
            places,
            [value for value in series.y if value is not None],
            width * 0.92,
            color=_SERIES[n % len(_SERIES)],
            alpha=0.85,
            hatch=("", "///", "...", "xx", "\\\\", "++")[n % 6],
            edgecolor=_INK if n else "none",
            linewidth=0.3,
            label=series.name,
        )
        for k, place in zip(kept, places, strict=True):
            low, high = _at(series.low, k), _at(series.high, k)
            if low is not None and high is not None:
                ends, at = [low, high], [place, place]
                axes.plot(*(ends, at) if lying else (at, ends), color=_INK, linewidth=1)
    if lying:
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        _frame(axes, plot.y_label, "", grid="x")
    else:
        axes.set_xticks(range(len(labels)), labels)
        _frame(axes, plot.x_label, plot.y_label, grid="y")
    axes.tick_params(axis="y" if lying else "x", length=0)


def _ecdf(axes: Axes, plot: Plot) -> None:
    """The share of samples at or below each value: no bins to choose, tails in sight."""
    for n, series in enumerate(plot.series):
        samples = np.sort(np.array([v for v in series.y if v is not None], dtype=float))
        if not samples.size:
            continue
        shares = np.arange(1, samples.size + 1) / samples.size
        axes.step(
            np.concatenate([samples[:1], samples]),
            np.concatenate([[0.0], shares]),
            where="post",
            color=_SERIES[n % len(_SERIES)],
            linestyle=_DASHES[n % len(_DASHES)],
            label=f"{series.name} (n={samples.size})",
        )
    axes.set_ylim(0, 1.02)
    _frame(axes, plot.x_label, plot.y_label or "share at or below")


def _frame(axes: Axes, x_label: str, y_label: str, *, grid: str = "both") -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis=grid)  # type: ignore[arg-type, unused-ignore]


def _height(plot: Plot) -> float:
    """Inches: what has a row for each category grows with them."""
    rows = len(_categories(plot)) * max(1, len(plot.series))
    legend = 0.25 if len(plot.series) > 1 else 0.0
    if plot.kind == "interval":
        return min(7.0, 0.75 + 0.26 * max(rows, 2) + legend)
    return min(9.0, 0.6 + 0.11 * max(rows, 8) + legend) if plot.kind == "bar" and _lying(plot) else _HEIGHT


def _lying(plot: Plot) -> bool:
    """Do the bars lie? About 45 characters of 8 pt text fit under the plot."""
    labels = _categories(plot)
    return len(labels) * (max(map(len, labels), default=0) + 2) > 45


def _categories(plot: Plot) -> list[str]:
    return list(dict.fromkeys(str(x) for series in plot.series for x in series.x))


def _at(values: Sequence[float | None], k: int) -> float | None:
    return values[k] if k < len(values) else None


def _inline(text: str, key: str, title: str) -> str:
    """matplotlib's SVG file as an element for a page: own ids, page's colours and font, a name for screen readers."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'\b(id=")([^"]+)"', rf'\g<1>{key}-\2"', text)
    text = re.sub(r"(url\(#|xlink:href=\"#)", rf"\g<1>{key}-", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)  # it would hold for the whole page
    text = re.sub(r'(font-family:|font: [^;"]*?px) [^;"]+', r"\1 var(--sans)", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    view = re.search(r'viewBox="[^"]+"', text)
    assert view is not None
    name = html.escape(title, quote=True)
    head = f'<svg class="plot" role="img" aria-label="{name}" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip()
