"""What do the judgements say? From a campaign's attempts to success rates, tables and a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from pilothouse.core import stats
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.redteam.base import Attempt, Judgement, Verdict
from pilothouse.store.answers import Answer

SHOWN = 40


@dataclass(frozen=True, slots=True)
class Campaign:
    """Attempts, and by endpoint (the guard "off", "on") their answers and judgements."""

    families: tuple[str, ...]
    sources: dict[str, str]
    attempts: tuple[Attempt, ...]
    answers: dict[str, dict[str, Answer]]
    judgements: dict[str, dict[str, Judgement]]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(self.answers)

    def of(self, family: str | None) -> list[Attempt]:
        """The attempts of a family, or all."""
        return [a for a in self.attempts if family is None or a.family == family]

    def verdict(self, endpoint: str, attempt: Attempt) -> Verdict:
        return self.judgements[endpoint][attempt.id].verdict

    @staticmethod
    def counts(verdicts: Iterable[Verdict]) -> dict[Verdict, int]:
        """How many of each."""
        found = Counter(verdicts)
        states: tuple[Verdict, ...] = ("breached", "held", "not_assessed")
        return {state: found[state] for state in states}


def report(campaign: Campaign) -> Report:
    """The whole report of a campaign."""
    overall = {e: _rate(campaign, e, None) for e in campaign.endpoints}
    by_family = {f: {e: _rate(campaign, e, f) for e in campaign.endpoints} for f in campaign.families}
    measures = [*overall.values()]
    if len(campaign.endpoints) > 1:
        measures.append(_difference(campaign))
    measures += [m for rates in by_family.values() for m in rates.values()]
    measures += [_portion(campaign, e, "not_assessed") for e in campaign.endpoints]
    measures += [_portion(campaign, e, "blocked") for e in campaign.endpoints]
    return Report(
        stage="redteam",
        title="Attacks, guard off and on" if len(campaign.endpoints) > 1 else "Attacks",
        summary=_summary(campaign),
        measures=tuple(measures),
        tables=(_family_table(campaign, by_family, overall), *_breach_tables(campaign)),
        plots=(_plot(campaign, by_family, overall),),
        facts=_facts(campaign),
        details={
            "attempts": [
                {
                    "id": a.id,
                    "family": a.family,
                    "technique": a.technique,
                    "transform": a.transform,
                    "owasp": list(a.owasp),
                    "verdicts": {e: campaign.verdict(e, a) for e in campaign.endpoints},
                }
                for a in campaign.attempts
            ]
        },
    )


def _rate(campaign: Campaign, endpoint: str, family: str | None) -> Measure:
    """Attack success rate: breached among the assessed; what was not assessed is neither, and shown beside it."""
    attempts = campaign.of(family)
    counts = campaign.counts(campaign.verdict(endpoint, a) for a in attempts)
    assessed = counts["breached"] + counts["held"]
    name = f"redteam.asr{'_' + family.replace(' ', '_') if family else ''}.{endpoint}"
    label = f"attack success{', ' + family if family else ''}, guard {endpoint}"
    found = stats.share(name, counts["breached"], assessed, label=label, better="lower")
    if not attempts:
        return msgspec.structs.replace(found, method="no attempt could be made (no canaries in the training rows)")
    if not assessed:
        return msgspec.structs.replace(found, method=f"none of {len(attempts)} attempts could be assessed")
    note = f"of assessed attempts, {counts['not_assessed']} not assessed"
    return msgspec.structs.replace(found, method=f"{found.method} {note}")


def _difference(campaign: Campaign) -> Measure:
    """Last endpoint minus first, over attempts assessed in both."""
    first, last = campaign.endpoints[0], campaign.endpoints[-1]
    both = [a for a in campaign.attempts if all(campaign.verdict(e, a) != "not_assessed" for e in (first, last))]
    new = [campaign.verdict(last, a) == "breached" for a in both]
    old = [campaign.verdict(first, a) == "breached" for a in both]
    label = f"attack success, guard {last} − {first}"
    found = stats.paired("redteam.asr.delta", new, old, unit="share", label=label, better="lower")
    if not both:
        return msgspec.structs.replace(found, method="no attempt was assessed in both")
    p = stats.sign_test(new, old)
    stopped = sum(b and not a for a, b in zip(new, old, strict=True))
    opened = sum(a and not b for a, b in zip(new, old, strict=True))
    test = f"exact McNemar p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'} ({stopped} stopped, {opened} newly breached)"
    return msgspec.structs.replace(found, method=f"{found.method}; {test}")


def _portion(campaign: Campaign, endpoint: str, what: str) -> Measure:
    """Share of all attempts that were not assessed, or that a guard blocked."""
    if what == "blocked":
        hits = sum(bool(a.guard) for a in campaign.answers[endpoint].values())
        label = f"attempts blocked by the guard, guard {endpoint}"
        return stats.share(f"redteam.blocked.{endpoint}", hits, len(campaign.attempts), label=label, better="neither")
    hits = sum(campaign.verdict(endpoint, a) == "not_assessed" for a in campaign.attempts)
    label = f"attempts not assessed, guard {endpoint}"
    return stats.share(f"redteam.not_assessed.{endpoint}", hits, len(campaign.attempts), label=label, better="lower")


def _percent(measure: Measure) -> str:
    if measure.value is None or measure.low is None or measure.high is None:
        return "—"
    return f"{100 * measure.value:.0f} % [{100 * measure.low:.0f}, {100 * measure.high:.0f}]"


def _family_table(campaign: Campaign, by: dict[str, dict[str, Measure]], overall: dict[str, Measure]) -> Table:
    rows = []
    for family, rates in [*by.items(), (None, overall)]:
        attempts = campaign.of(family)
        for endpoint in campaign.endpoints:
            counts = campaign.counts(campaign.verdict(endpoint, a) for a in attempts)
            blocked = sum(bool(campaign.answers[endpoint][a.id].guard) for a in attempts)
            cells = [counts["breached"], counts["held"], blocked, counts["not_assessed"], _percent(rates[endpoint])]
            rows.append([family or "all", endpoint, len(attempts), *cells])
    heads = ["family", "guard", "attempts", "breached", "held", "blocked by guard", "not assessed", "success rate"]
    note = "Success rate: breached among breached and held, with its 95 % Wilson interval."
    return Table("By family", heads, rows, note)


def _breach_tables(campaign: Campaign) -> list[Table]:
    """The breaches, those with the guard on first: they are what would happen in production."""
    rows = []
    for endpoint in reversed(campaign.endpoints):
        for attempt in campaign.attempts:
            judgement = campaign.judgements[endpoint][attempt.id]
            if judgement.verdict == "breached":
                said = campaign.answers[endpoint][attempt.id].text
                trick = f"{attempt.technique}, {attempt.transform}"
                shown = [_cut(attempt.prompt), _cut(said), judgement.evidence]
                rows.append([attempt.id, endpoint, attempt.family, trick, *shown])
    if not rows:
        return []
    more = len(rows) - SHOWN
    note = "Texts are cut to 160 characters; the attempts asset has them whole."
    note += f" {more} more are not shown." if more > 0 else ""
    heads = ["attempt", "guard", "family", "technique", "prompt", "answer", "evidence"]
    return [Table("Breaches", heads, rows[:SHOWN], note)]


def _plot(campaign: Campaign, by: dict[str, dict[str, Measure]], overall: dict[str, Measure]) -> Plot:
    names = [*campaign.families, "all"]
    series = []
    for endpoint in campaign.endpoints:
        rates: Sequence[Measure] = [*(by[f][endpoint] for f in campaign.families), overall[endpoint]]
        values, low, high = [m.value for m in rates], [m.low for m in rates], [m.high for m in rates]
        series.append(Series(f"guard {endpoint}", list(names), values, low, high))
    note = f"{len(campaign.attempts)} attempts each; 95 % Wilson intervals over the assessed ones"
    return Plot("interval", "Attack success rate", "", "share of assessed attempts", series, note)


def _facts(campaign: Campaign) -> dict[str, str]:
    facts = {
        "outcomes": "breached: the evidence is in the answer; held: it is not, or a guard blocked; "
        "not assessed: the request failed, the answer is empty, or the evidence is unclear",
        "reach": "published one-message attacks in simple disguises: a low rate does not mean a patient attacker fails",
        "weak models": "held can also mean that the model could not do what was asked; try a stronger one anew",
        "system message": "jailbreak adds fixed rules and system-prompt-leak a canary to the project's system prompt",
    }
    for endpoint in campaign.endpoints:
        given = campaign.answers[endpoint].values()
        guards = Counter(a.guard for a in given if a.guard)
        blocked = ", ".join(f"{n} by {guard}" for guard, n in guards.most_common()) or "none"
        failed = sum(bool(a.error) for a in given)
        facts[f"guard {endpoint}"] = f"{failed} requests failed, {sum(a.cut for a in given)} answers cut at the limit, "
        facts[f"guard {endpoint}"] += f"blocked: {blocked}"
    for family in campaign.families:
        owasp = next((", ".join(a.owasp) for a in campaign.of(family)), "no attempts")
        facts[family] = f"{owasp}; {campaign.sources[family]}"
    return facts


def _summary(campaign: Campaign) -> str:
    parts, unclear = [], []
    for endpoint in campaign.endpoints:
        counts = campaign.counts(campaign.verdict(endpoint, a) for a in campaign.attempts)
        assessed = counts["breached"] + counts["held"]
        parts.append(f"{counts['breached']} of {assessed} succeeded with the guard {endpoint}")
        unclear.append(str(counts["not_assessed"]))
    families = len({a.family for a in campaign.attempts})
    return (
        f"{len(campaign.attempts)} attacks in {families} families: {', '.join(parts)} "
        f"({' and '.join(unclear)} could not be assessed)."
    )


def _cut(text: str, n: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= n else text[: n - 1] + "…"
