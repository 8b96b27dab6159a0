"""What do the scores say? From scored answers to measures, tables and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pilothouse.core import stats
from pilothouse.core.messages import Row
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.evaluate.base import Metric, Score
from pilothouse.store.answers import Answer

EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows, and by arm (the first is the baseline, the last the candidate) their answers and scores per metric."""

    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    answers: dict[str, dict[str, Answer]]
    scores: dict[str, dict[str, list[Score]]]

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.answers)

    def common(self, metric: str) -> list[int]:
        """Rows that every arm has a value for: only these are compared."""
        return [i for i in range(len(self.rows)) if all(self.scores[a][metric][i].value is not None for a in self.arms)]

    def values(self, arm: str, metric: str, rows: Sequence[int]) -> list[float]:
        """The scores of those rows."""
        found = (self.scores[arm][metric][i].value for i in rows)
        return [value for value in found if value is not None]


def report(scored: Scored) -> Report:
    """The whole report of an evaluation."""
    by_metric = {m.name: {arm: _measure(scored, m, arm) for arm in scored.arms} for m in scored.metrics}
    deltas = {m.name: _delta(scored, m) for m in scored.metrics} if len(scored.arms) > 1 else {}
    errors = [_errors(scored, arm) for arm in scored.arms]
    first, last = scored.arms[0], scored.arms[-1]
    tables = [_scores_table(scored, by_metric, deltas)]
    if any(row.tags for row in scored.rows):
        tables.append(_tag_table(scored, last))
    tables.append(_examples(scored))
    return Report(
        stage="evaluate",
        title=f"Quality: {last} against {first}" if deltas else f"Quality of {last}",
        summary=_summary(scored, by_metric, deltas),
        measures=(*(m for arms in by_metric.values() for m in arms.values()), *deltas.values(), *errors),
        tables=tuple(tables),
        plots=(_plot(scored, by_metric),),
        facts=_facts(scored),
        details={
            "rows": [row.id for row in scored.rows],
            "metrics": {
                m.name: {"source": m.source, "range": list(m.range), "binary": m.binary, "direction": m.direction}
                for m in scored.metrics
            },
        },
    )


def _unit(metric: Metric) -> str:
    """Scores within 0..1 are shown as shares; that also keeps an interval on scores that are all equal."""
    return "share" if metric.range == (0.0, 1.0) else ""


def _measure(scored: Scored, metric: Metric, arm: str) -> Measure:
    name = f"evaluate.{metric.name.replace('-', '_')}.{arm}"
    values = scored.values(arm, metric.name, scored.common(metric.name))
    label = f"{metric.label}, {arm}"
    if not values:
        return Measure(name, None, _unit(metric), method=_why_none(scored, metric), better="higher", label=label)
    if metric.binary:
        return stats.share(name, round(sum(values)), len(values), label=label)
    return stats.mean(name, values, unit=_unit(metric), label=label)


def _delta(scored: Scored, metric: Metric) -> Measure:
    first, last = scored.arms[0], scored.arms[-1]
    rows = scored.common(metric.name)
    new, old = scored.values(last, metric.name, rows), scored.values(first, metric.name, rows)
    name, label = f"evaluate.{metric.name.replace('-', '_')}.delta", f"{metric.label}, {last} − {first}"
    found = stats.paired(name, new, old, unit=_unit(metric), label=label)
    if not new:
        return msgspec.structs.replace(found, method=_why_none(scored, metric))
    if metric.binary:
        better, worse = [v == 1 for v in new], [v == 1 for v in old]
        p = stats.sign_test(better, worse)
        gains = sum(a and not b for a, b in zip(better, worse, strict=True))
        losses = sum(b and not a for a, b in zip(better, worse, strict=True))
        test = f"exact McNemar p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'} ({gains} rows won, {losses} lost)"
        found = msgspec.structs.replace(found, method=f"{found.method}; {test}")
    return found


def _why_none(scored: Scored, metric: Metric) -> str:
    notes = (s.note for arm in scored.arms for s in scored.scores[arm][metric.name] if s.value is None)
    return f"no row could be scored: {next(notes, 'there are none')}"


def _errors(scored: Scored, arm: str) -> Measure:
    failed = sum(bool(a.error) for a in scored.answers[arm].values())
    name, label = f"evaluate.errors.{arm}", f"failed requests, {arm}"
    return stats.share(name, failed, len(scored.rows), label=label, better="lower")


def show(measure: Measure, *, sign: bool = False) -> str:
    """`83.3 % [76.4, 88.4]` for shares (`pt` for their differences), `0.41 [0.38, 0.45]` else, a dash for nothing."""
    if measure.value is None:
        return "—"
    scale, digits, unit = (100, 1, " pt" if sign else " %") if measure.unit == "share" else (1, 2, "")
    plus = "+" if sign else ""
    value = f"{scale * measure.value:{plus}.{digits}f}{unit}"
    if measure.low is None or measure.high is None:
        return value
    return f"{value} [{scale * measure.low:{plus}.{digits}f}, {scale * measure.high:{plus}.{digits}f}]"


def _scores_table(scored: Scored, by: dict[str, dict[str, Measure]], deltas: dict[str, Measure]) -> Table:
    rows = []
    for metric in scored.metrics:
        measures = by[metric.name]
        cells = [metric.label, *(show(m) for m in measures.values())]
        if deltas:
            cells.append(show(deltas[metric.name], sign=True))
        rows.append([*cells, measures[scored.arms[-1]].n])
    heads = ["metric", *scored.arms, *(["difference"] if deltas else []), "rows"]
    note = "95 % intervals in brackets: Wilson for shares of rows, bootstrap for means and paired differences."
    return Table("Scores", heads, rows, note)


def _tag_table(scored: Scored, arm: str) -> Table:
    tags = sorted({tag for row in scored.rows for tag in row.tags})
    compared = {m.name: set(scored.common(m.name)) for m in scored.metrics}
    rows = []
    for tag in tags:
        members = [i for i, row in enumerate(scored.rows) if tag in row.tags]
        cells: list[float | None] = []
        for metric in scored.metrics:
            values = scored.values(arm, metric.name, [i for i in members if i in compared[metric.name]])
            cells.append(round(sum(values) / len(values), 3) if values else None)
        rows.append([tag, len(members), *cells])
    note = "Means over few rows: read them as hints where to look, not as measurements."
    return Table(f"{arm} by tag", ["tag", "rows", *(m.label for m in scored.metrics)], rows, note)


def _examples(scored: Scored) -> Table:
    """Half from where the last arm does worst, half from the start: failures teach, the rest shows the usual."""
    last = scored.arms[-1]

    def total(i: int) -> float:
        return sum(s[i].value or 0.0 for s in scored.scores[last].values())

    worst = sorted(range(len(scored.rows)), key=lambda i: (total(i), i))[: EXAMPLES // 2]
    usual = [i for i in range(len(scored.rows)) if i not in worst][: EXAMPLES - len(worst)]
    rows = [
        [_cut(row.question), _cut(row.answer), *(_said(scored.answers[arm][row.id]) for arm in scored.arms)]
        for row in (scored.rows[i] for i in worst + usual)
    ]
    note = f"The first {len(worst)} are the lowest-scoring rows of {last}, the others the first of the rest."
    return Table("Examples", ["question", "reference", *scored.arms], rows, note)


def _said(answer: Answer) -> str:
    if answer.error:
        return f"(request failed: {_cut(answer.error, 120)})"
    return f"(blocked by {answer.guard}) {_cut(answer.text)}" if answer.guard else _cut(answer.text)


def _cut(text: str, n: int = 240) -> str:
    text = " ".join(text.split())
    return text if len(text) <= n else text[: n - 1] + "…"


def _plot(scored: Scored, by: dict[str, dict[str, Measure]]) -> Plot:
    series = []
    for arm in scored.arms:
        found = [by[m.name][arm] for m in scored.metrics]
        series.append(
            Series(
                arm,
                [m.label for m in scored.metrics],
                [m.value for m in found],
                [m.low for m in found],
                [m.high for m in found],
            )
        )
    return Plot("interval", "Scores with 95 % intervals", "", "score", series, note=f"n = {len(scored.rows)} rows")


def _facts(scored: Scored) -> dict[str, str]:
    facts = {"rows": f"{len(scored.rows)}, the same for every arm, asked at temperature 0 through the served endpoint"}
    for arm in scored.arms:
        given = scored.answers[arm].values()
        facts[arm] = (
            f"{sum(bool(a.error) for a in given)} requests failed (left out of every score, tried again once), "
            f"{sum(a.cut for a in given)} answers cut at the token limit, "
            f"{sum(bool(a.guard) for a in given)} blocked by a guard (scored as given)"
        )
    facts["compared"] = "rows that every arm answered; " + ", ".join(
        f"{m.label}: {len(scored.common(m.name))}" for m in scored.metrics
    )
    facts["JSON"] = "valid JSON judges the whole answer; intent and slots are read from the first JSON object in it"
    facts |= {f"source of {m.label}": m.source for m in scored.metrics}
    return facts


def _summary(scored: Scored, by: dict[str, dict[str, Measure]], deltas: dict[str, Measure]) -> str:
    parts = []
    arms = (scored.arms[0], scored.arms[-1]) if deltas else (scored.arms[-1],)
    for metric in scored.metrics:
        shown = " → ".join(show(by[metric.name][arm]).partition(" [")[0] for arm in arms)
        parts.append(f"{metric.label} {shown}")
    what = f"{scored.arms[-1]} against {scored.arms[0]}" if deltas else scored.arms[-1]
    return f"On {len(scored.rows)} held-out rows, {what}: {', '.join(parts)}."
