"""The release card: self-contained, escaped, complete, its numbers those of the record; readable on a phone."""

from __future__ import annotations

import re
import xml.dom.minidom
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.records import GateResult, Measure, Plot, Report, Series, Table
from pilothouse.release.card import card, number
from pilothouse.release.charts import gate_line, svg
from pilothouse.release.record import Release

pytest.importorskip("matplotlib")

DELTA = Measure("evaluate.intent_match.delta", 0.413, "share", 0.331, 0.491, 150, "paired difference, bootstrap 95%")
STALL = Measure("measure.stall_p90", None, "ms", n=0, method="nothing to measure")
LOSS = Plot(
    "line", "Loss", "step", "nats", [Series("train", [1, 2, 3], [2.5, 1.2, 0.9]), Series("dev", [1, 3], [2.4, 0.8])]
)
DOTS = Plot(
    "interval",
    "Scores by arm",
    "metric",
    "share",
    [
        Series("base", ["valid JSON", "intent"], [0.02, 0.1], [0.0, 0.06], [0.06, 0.16]),
        Series("tuned", ["valid JSON", "intent"], [0.98, 0.51], [0.95, None], [1.0, None]),
    ],
)
BARS = Plot(
    "bar", "Attacks", "family", "share", [Series("off", ["a", "b"], [0.5, None]), Series("on", ["a", "b"], [0.1, 0.0])]
)
TIMES = Plot("ecdf", "TTFT", "ms", "", [Series("all", [], [120.0, 80.0, 95.0, 300.0])], note="One slow start.")
EMPTY = Plot("line", "Nothing", "x", "y", [Series("none", [1], [None])])

REPORTS = {
    "evaluate": Report(
        "evaluate",
        "Base against tuned",
        "The tuned model is better.",
        measures=(DELTA,),
        tables=(
            Table("Slices", ["slice", "n", "score"], [["refund", 40, 0.525], ["<b>odd</b>", None, True]], "A note."),
        ),
        plots=(LOSS, DOTS, EMPTY),
        facts={"rows": "150 of 300"},
    ),
    "measure": Report("measure", "Speed under load", "It is fast enough.", measures=(STALL,), plots=(BARS, TIMES)),
}


def release(**changes: object) -> Release:
    fields: dict[str, object] = {
        "id": "airline-0123456789",
        "project": "airline",
        "title": "Meridian <Skies> & friends",
        "created": 1_790_000_000.0,
        "verdict": "hold",
        "gates": (
            GateResult("better than base", "evaluate.intent_match.delta > 0", "pass", "0.413 is above 0", (DELTA,)),
            GateResult("few stalls", "measure.stall_p90 < 500", "inconclusive", "has no value", (STALL,)),
            GateResult("guarded", "guard.leaks < 0.02", "fail", "guard.leaks is not below", ()),
        ),
        "digests": {"base": "ab" * 32, "adapter": "cd" * 32},
        "runs": {"evaluate": "evaluate-1", "measure": "measure-1"},
        "machine": {"cpu": "EPYC", "cores": "2", "torch": "2.13.0"},
        "serving": {"engine": "llamacpp", "context": 1024, "options": {}},
    }
    return Release(**{**fields, **changes})  # type: ignore[arg-type]


class Page(HTMLParser):
    """Ids, references and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "poster"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_card_asks_for_nothing_from_elsewhere() -> None:
    text = card(release(), REPORTS)
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert page.tags.isdisjoint({"script", "link", "iframe", "img", "object", "base"})
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_every_reference_has_its_element_and_every_id_is_one() -> None:
    text = card(release(), REPORTS)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | {link[1:] for link in page.links} <= set(page.ids)


def test_what_a_project_wrote_is_escaped() -> None:
    text = card(release(), REPORTS)
    assert "Meridian &lt;Skies&gt; &amp; friends" in text
    assert "<b>odd" not in text and "&lt;b&gt;odd&lt;/b&gt;" in text


def test_numbers_stand_with_interval_and_n_and_exactly_as_recorded() -> None:
    text = card(release(), REPORTS)
    (row,) = re.findall(r'<tr data-measure="evaluate.intent_match.delta">(.*?)</tr>', text, flags=re.S)
    assert '<data value="0.413">41.3 %</data>' in row and "33.1 % … 49.1 %" in row and ">150<" in row
    (missing,) = re.findall(r'<tr data-measure="measure.stall_p90">(.*?)</tr>', text, flags=re.S)
    assert ">–<" in missing and "nothing to measure" in missing


def test_verdicts_are_words_and_symbols_not_only_colours() -> None:
    text = Page(card(release(), REPORTS)).text
    assert "✗ hold" in text and "1 of 3 gates failed: guarded. 1 of 3 gates lack evidence: few stalls." in text
    assert "✓ pass" in text and "? inconclusive" in text and "✗ fail" in text
    assert "All 1 gates passed" in Page(card(release(verdict="ship", gates=release().gates[:1]), {})).text
    assert "No gate is declared" in Page(card(release(verdict="inconclusive", gates=()), {})).text


def test_everything_in_the_reports_is_there() -> None:
    text = Page(card(release(), REPORTS)).text
    for said in ("The tuned model is better.", "Slices", "refund", "A note.", "150 of 300", "One slow start."):
        assert said in text
    for said in ("ab" * 32, "cd" * 32, "evaluate-1", "EPYC", "2.13.0", "llamacpp", "There is nothing to draw."):
        assert said in text


def test_the_same_release_gives_the_same_bytes() -> None:
    assert card(release(), REPORTS) == card(release(), REPORTS)


@pytest.mark.parametrize("plot", [LOSS, DOTS, BARS, TIMES], ids=lambda p: p.kind)
def test_a_plot_is_well_formed_and_takes_its_colours_from_the_page(plot: Plot) -> None:
    drawn = svg(plot, key="k")
    root = xml.dom.minidom.parseString(drawn).documentElement
    assert root is not None and root.getAttribute("aria-label") == plot.title
    assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r'#k-[^")]*', "", drawn)), "a fixed colour"
    assert "var(--series-1)" in drawn and "currentColor" in drawn and "<style" not in drawn
    for series in plot.series if len(plot.series) > 1 else ():
        assert f">{series.name}</text>" in drawn


def test_bars_with_long_names_lie_and_missing_points_leave_a_gap() -> None:
    names = [f"a rather long label {n}" for n in range(12)]
    long = Plot("bar", "Long", "tag", "rows", [Series(s, list(names), [1.0] * 12) for s in ("train", "dev")])
    drawn = svg(long, key="k")
    assert all(f">{name}</text>" in drawn for name in names) and "rotate(-30" not in drawn
    assert float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawn)[0]) > 200
    gap = svg(Plot("line", "Gap", "x", "y", [Series("s", list(range(60)), [1.0] * 30 + [None] + [2.0] * 29)]), key="k")
    (path,) = re.findall(r'<path d="([^"]+)"[^>]*style="[^"]*stroke: var\(--series-1\)', gap)
    assert path.count("M ") == 2


def test_a_long_table_is_folded_and_complete() -> None:
    table = Table("Long", ["row", "score"], [[f"row-{n}", n / 100] for n in range(40)])
    text = card(release(), {"evaluate": Report("evaluate", "T", "S", tables=(table,))})
    assert "<summary>Long <span>(40 rows)</span></summary>" in text and all(f"row-{n}<" in text for n in range(40))


@settings(max_examples=100, deadline=None)
@given(
    value=st.floats(-1e6, 1e6),
    low=st.none() | st.floats(-1e6, 1e6),
    high=st.none() | st.floats(-1e6, 1e6),
    bound=st.floats(-1e6, 1e6),
)
def test_a_gates_drawing_stays_inside_its_box(
    value: float, low: float | None, high: float | None, bound: float
) -> None:
    drawn = gate_line(Measure("m", value, low=low, high=high), bound)
    places = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([^"]+)"', drawn)]
    assert places and all(5.9 <= x <= 114.1 for x in places)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.9333, "share", "93.3 %"),
        (12.3456, "ms", "12.35 ms"),
        (12345.6, "tok/s", "12,346 tok/s"),
        (None, "ms", "–"),
        (0, "", "0"),
        (1320, "count", "1,320"),
    ],
)
def test_numbers_are_short(value: float | None, unit: str, shown: str) -> None:
    assert number(value, unit) == shown


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 420])
def test_the_card_fits_its_window_without_requests(width: int, chromium: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "card.html").write_text(card(release(), REPORTS), encoding="utf-8")
    with sync_api.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{tmp_path}/card.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#verdict").inner_text().startswith("✗ hold")
        assert asked == [f"file://{tmp_path}/card.html"]
        browser.close()
