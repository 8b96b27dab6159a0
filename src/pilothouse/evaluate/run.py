"""How good is each arm on the same held-out rows, and by how much does the last differ from the first?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pilothouse.core import digest, registry
from pilothouse.core.client import Job
from pilothouse.core.errors import UserError
from pilothouse.core.messages import Row, with_system
from pilothouse.core.project.schema import Evaluate
from pilothouse.core.records import Endpoint, Outcome
from pilothouse.evaluate.base import Metric, Score
from pilothouse.evaluate.report import Scored, report
from pilothouse.store.answers import Answer, ask
from pilothouse.store.rows import encode
from pilothouse.store.runs import Context


class Output(msgspec.Struct, frozen=True):
    """One row as kept: the question, the reference, every arm's answer and its scores."""

    row: str
    question: str
    reference: str
    tags: tuple[str, ...]
    answers: dict[str, Answer]
    scores: dict[str, dict[str, Score]]


def run(ctx: Context, settings: Evaluate, rows: Sequence[Row], arms: Mapping[str, Endpoint]) -> Outcome:
    """Ask every arm (base first, tuned last) every chosen row at temperature 0, score, and compare by row.

    Answers are appended to `outputs-<arm>.jsonl` in the run's folder; a second call asks only what is missing.
    """
    if not arms:
        raise ValueError("evaluate needs at least one arm")
    metrics = make(settings.metrics)
    picked = pick(rows, settings.rows)
    jobs = {row.id: Job(with_system(row.messages, ""), settings.max_tokens, {"temperature": 0}) for row in picked}
    answers: dict[str, dict[str, Answer]] = {}
    for arm, endpoint in arms.items():
        journal = ctx.folder / f"outputs-{arm}.jsonl"
        ctx.progress.begin(f"answers of {arm}", len(jobs))
        answers[arm] = ask(endpoint, jobs, journal, concurrency=settings.concurrency, progress=ctx.progress)
        ctx.progress.end()
        failed = sum(bool(a.error) for a in answers[arm].values())
        ctx.log.info("%s: %d rows asked, %d requests failed", arm, len(jobs), failed)
    scored = Scored(
        rows=tuple(picked),
        metrics=tuple(metrics),
        answers=answers,
        scores={arm: score(metrics, picked, given) for arm, given in answers.items()},
    )
    outputs = ctx.store.add_asset(
        "rows",
        "evaluate-outputs",
        {"outputs.jsonl": encode(_outputs(scored))},
        meta={"arms": list(arms), "metrics": [m.name for m in metrics], "rows": len(picked)},
        origin=f"run:{ctx.id}",
    )
    return Outcome(report(scored), {"outputs": outputs})


def make(names: Sequence[str]) -> list[Metric]:
    """The metrics of those names, each once."""
    if not names:
        raise UserError("no metric is named", where="pilothouse.yaml: evaluate.metrics", fix="Add: intent-match")
    unique = dict.fromkeys(names)
    return [registry.create("metrics", name, where="pilothouse.yaml: evaluate.metrics") for name in unique]


def pick(rows: Sequence[Row], n: int) -> list[Row]:
    """The n rows whose digests come first: a stable, arbitrary choice that does not follow the file's order."""
    if not rows:
        raise UserError("there are no rows to evaluate on", where="pilothouse.yaml: data.test")
    doubled = len(rows) - len({row.id for row in rows})
    if doubled:
        raise UserError(f"{doubled} of {len(rows)} rows share their id with another row", where="the test rows")
    return sorted(rows, key=digest.of_json)[:n]


def score(metrics: Iterable[Metric], rows: Sequence[Row], answers: Mapping[str, Answer]) -> dict[str, list[Score]]:
    """Each metric's score for every row, in the order of the rows; None where there is no answer to score."""
    return {
        metric.name: [
            metric.score(row, answers[row.id].text)
            if not answers[row.id].error
            else Score(None, f"no answer: {answers[row.id].error}")
            for row in rows
        ]
        for metric in metrics
    }


def _outputs(scored: Scored) -> Iterable[Output]:
    for i, row in enumerate(scored.rows):
        yield Output(
            row=row.id,
            question=row.question,
            reference=row.answer,
            tags=row.tags,
            answers={arm: given[row.id] for arm, given in scored.answers.items()},
            scores={arm: {name: all_[i] for name, all_ in by.items()} for arm, by in scored.scores.items()},
        )
