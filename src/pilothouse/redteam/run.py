"""What does each attack get out of the served model, with its guard off and on?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pilothouse.core import registry
from pilothouse.core.client import Job
from pilothouse.core.errors import UserError
from pilothouse.core.messages import with_system
from pilothouse.core.project.schema import Redteam
from pilothouse.core.records import Endpoint, Outcome
from pilothouse.redteam.base import Attempt, Canary, Judgement, Probe, Target
from pilothouse.redteam.judge import judge
from pilothouse.redteam.report import Campaign, report
from pilothouse.store.answers import Answer, ask
from pilothouse.store.rows import encode
from pilothouse.store.runs import Context


class Record(msgspec.Struct, frozen=True):
    """One attempt as kept: what was sent, and every endpoint's answer with its judgement."""

    attempt: Attempt
    answers: dict[str, Answer]
    judgements: dict[str, Judgement]


def run(
    ctx: Context,
    settings: Redteam,
    endpoints: Mapping[str, Endpoint],
    system_prompt: str,
    canaries: Sequence[Mapping[str, Any]],
) -> Outcome:
    """Run every attempt through every endpoint ("off", "on": the guard) at temperature 0 and judge the answers.

    Answers are appended to `answers-<endpoint>.jsonl` in the run's folder; a second call asks only what is missing.
    """
    if not endpoints:
        raise ValueError("redteam needs at least one endpoint")
    target = Target(system_prompt, tuple(msgspec.convert(dict(c), Canary) for c in canaries))
    probes = make(settings.probes)
    attempts = plan(probes, settings, target)
    if not attempts:
        raise UserError(
            "there is nothing to attack: these probes need canaries and the training rows have none",
            where="pilothouse.yaml: redteam.probes",
            fix="Set data.canaries to 1 or more, or name another probe.",
        )
    jobs = {a.id: Job(with_system(a.messages, ""), settings.max_tokens, {"temperature": 0}) for a in attempts}
    answers: dict[str, dict[str, Answer]] = {}
    for name, endpoint in endpoints.items():
        journal = ctx.folder / f"answers-{name}.jsonl"
        ctx.progress.begin(f"attacks, guard {name}", len(jobs))
        answers[name] = ask(endpoint, jobs, journal, concurrency=settings.concurrency, progress=ctx.progress)
        ctx.progress.end()
    campaign = Campaign(
        families=tuple(dict.fromkeys(p.family for p in probes)),
        sources={p.family: p.source for p in probes},
        attempts=tuple(attempts),
        answers=answers,
        judgements={name: {a.id: judge(a, given[a.id]) for a in attempts} for name, given in answers.items()},
    )
    for name, judged in campaign.judgements.items():
        ctx.log.info("guard %s: %s", name, campaign.counts(judged[a.id].verdict for a in attempts))
    kept = ctx.store.add_asset(
        "rows",
        "redteam-attempts",
        {"attempts.jsonl": encode(_records(campaign))},
        meta={"endpoints": list(endpoints), "attempts": len(attempts)},
        origin=f"run:{ctx.id}",
    )
    return Outcome(report(campaign), {"attempts": kept})


def prompts(settings: Redteam) -> list[str]:
    """What the attackers write, each text once: what the guard sheet tries its detectors on.

    Probes that need the target's canaries give none: their questions are like any customer's, and only what comes
    back could be caught.
    """
    return list(dict.fromkeys(a.prompt for a in plan(make(settings.probes), settings, Target())))


def make(names: Sequence[str]) -> list[Probe]:
    """The probes of those names, each once."""
    unique = dict.fromkeys(names)
    return [registry.create("probes", name, where="pilothouse.yaml: redteam.probes") for name in unique]


def plan(probes: Iterable[Probe], settings: Redteam, target: Target) -> list[Attempt]:
    """Every probe's attempts."""
    return [a for probe in probes for a in probe.attempts(settings.seed, settings.attempts, target)]


def _records(campaign: Campaign) -> Iterable[Record]:
    for attempt in campaign.attempts:
        yield Record(
            attempt,
            {name: given[attempt.id] for name, given in campaign.answers.items()},
            {name: judged[attempt.id] for name, judged in campaign.judgements.items()},
        )
