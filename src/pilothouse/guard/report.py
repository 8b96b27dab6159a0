"""What does the guard sheet say? From what was measured to rates with intervals, costs and tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import fmean

from pilothouse.core import stats
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.guard.sheet import Judged, Sheet

SHOWN = 25
_CHARS_A_TOKEN = 4


def report(sheet: Sheet) -> Report:
    """The whole guard sheet."""
    attacks, benign = sheet.of("attack"), sheet.of("benign")
    blocked = _share("guard.attacks_blocked", attacks, "attacks blocked at the input", better=True)
    spared = _share("guard.false_blocks", benign, "good requests blocked", better=False)
    leaked = _leaks(sheet)
    measures = [blocked, spared, leaked, *_costs(sheet)]
    return Report(
        stage="guard",
        title="Guard sheet",
        summary=_summary(sheet, attacks, benign),
        measures=tuple(measures),
        tables=(
            _detectors(sheet),
            _plants(sheet),
            _texts("Attacks that got through", [j for j in attacks if j.action != "block"]),
            _texts("Good requests that were blocked", [j for j in benign if j.action == "block"]),
        ),
        plots=(_plot([blocked, spared, leaked]),),
        facts=_facts(sheet, benign),
    )


def _share(name: str, judged: Sequence[Judged], label: str, *, better: bool) -> Measure:
    hits = sum(j.action == "block" for j in judged)
    return stats.share(name, hits, len(judged), label=label, better="higher" if better else "lower")


def _leaks(sheet: Sheet) -> Measure:
    leaked, planted = (sum(c[i] for c in sheet.planted.values()) for i in (0, 1))
    return stats.share("guard.leaks", leaked, planted, label="planted secrets that leaked in a stream", better="lower")


def _costs(sheet: Sheet) -> list[Measure]:
    ms = [j.ms for j in sheet.judged]
    # Chunks of one text are not independent: means and their intervals are taken over texts.
    chars = [fmean(held) for held in sheet.held]
    tokens = [fmean(ceil(h / _CHARS_A_TOKEN) for h in held) for held in sheet.held]
    each = [h for held in sheet.held for h in held]
    return [
        stats.quantile("guard.latency_input_p50", ms, 0.5, label="added before the first token, median"),
        stats.quantile("guard.latency_input_p99", ms, 0.99, label="added before the first token, p99"),
        stats.mean("guard.chunk_cost", sheet.chunk_us, unit="µs", label="a streamed chunk", better="lower"),
        stats.mean("guard.held_tokens", tokens, unit="tokens", label="tokens held back, mean", better="lower"),
        stats.quantile(
            "guard.held_tokens_p99",
            [ceil(h / _CHARS_A_TOKEN) for h in each],
            0.99,
            unit="tokens",
            label="tokens held back, p99 of chunks",
        ),
        stats.mean("guard.held_chars", chars, unit="characters", label="characters held back, mean", better="lower"),
        stats.quantile(
            "guard.held_chars_p99", each, 0.99, unit="characters", label="characters held back, p99 of chunks"
        ),
    ]


def _summary(sheet: Sheet, attacks: Sequence[Judged], benign: Sequence[Judged]) -> str:
    if not sheet.rules:
        return "The policy has no rules: nothing is guarded."
    stopped = sum(j.action == "block" for j in attacks)
    refused = sum(j.action == "block" for j in benign)
    leaked, planted = (sum(c[i] for c in sheet.planted.values()) for i in (0, 1))
    plants = f"{leaked} of {planted} planted secrets leaked" if planted else "no rule cuts answers, so none was planted"
    return (
        f"{stopped} of {len(attacks)} attacks were blocked at the input and {refused} of {len(benign)} good requests "
        f"with them; {plants}."
    )


def _detectors(sheet: Sheet) -> Table:
    names = sorted({f.detector for j in sheet.judged for f in j.findings} | {_detector(r) for r in sheet.rules})
    rows = []
    for name in names:
        row: list[str | int] = [name]
        for kind in ("attack", "benign"):
            seen = [{f.action for f in j.findings if f.detector == name} for j in sheet.of(kind)]
            row += [sum("block" in s for s in seen), sum(bool(s) and "block" not in s for s in seen)]
        rows.append(row)
    columns = ["detector", "attacks blocked", "attacks noted", "good blocked", "good noted"]
    note = f"{len(sheet.of('attack'))} attacks, {len(sheet.of('benign'))} good requests; noted: flagged or redacted"
    return Table("What each detector did at the input", columns, rows, note)


def _detector(label: str) -> str:
    return label.partition(": ")[2].partition(" ")[0]


def _plants(sheet: Sheet) -> Table:
    rows = [[category, planted, leaked] for category, (leaked, planted) in sorted(sheet.planted.items())]
    note = "each planted in an answer and cut at every border of the plant, then in pieces of 1, 3 and 4 characters"
    return Table("Planted secrets", ["kind", "planted", "leaked"], [list(r) for r in rows], note)


def _texts(title: str, judged: Sequence[Judged]) -> Table:
    rows = [[_short(j.text), j.action, j.findings[0].note if j.findings else ""] for j in judged[:SHOWN]]
    return Table(
        title, ["text", "action", "why"], [list(r) for r in rows], f"{min(SHOWN, len(judged))} of {len(judged)}"
    )


def _short(text: str, most: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _plot(shares: Sequence[Measure]) -> Plot:
    known = [m for m in shares if m.value is not None]
    series = Series(
        "share", [m.label for m in known], [m.value for m in known], [m.low for m in known], [m.high for m in known]
    )
    return Plot("interval", "What the guard stops and whom it refuses", "", "share", [series], "95 % Wilson intervals")


def _facts(sheet: Sheet, benign: Sequence[Judged]) -> dict[str, str]:
    facts = {f"rule {i + 1}": label.partition(": ")[2] for i, label in enumerate(sheet.rules)}
    failed = sum(bool(j.unscanned) for j in sheet.judged)
    facts["unscanned"] = f"{failed} of {len(sheet.judged)} texts, because a detector failed on them"
    facts["good texts as answers"] = (
        f"{sheet.blocked_benign_output} of {len(benign)} would be blocked in a stream, {sheet.changed_benign} redacted"
    )
    if sheet.uncovered:
        facts["not cut from answers"] = ", ".join(sheet.uncovered)
    facts["chunks"] = "good requests in pieces of 4 characters (about a token), as if the model had said them"
    facts["latency"] = "on this machine, in this process, one text at a time; it is added to TTFT"
    facts["reach"] = "rates hold for these attacks; new phrasings do worse, and a patient attacker tries many"
    return facts
