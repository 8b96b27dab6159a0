"""What a reader learns of parity: agreement and log-probability gaps with intervals, and which prompts differ most."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec

from pilothouse.core import stats
from pilothouse.core.project.schema import Parity
from pilothouse.core.records import Plot, Report, Series, Table

_WORST = 10


class Compared(msgspec.Struct, frozen=True):
    """One prompt through both. gaps: |difference| of log-probability (nats) per served token."""

    row: str
    question: str
    served: str
    trained: str
    same_answer: bool
    same_text: bool
    same_prompt: bool
    gaps: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max(self.gaps, default=0.0)


def report(settings: Parity, items: Sequence[Compared]) -> Report:
    """Agreement and gaps, each with its interval, and the prompts that differ most."""
    n = len(items)
    spoken = [item for item in items if item.gaps]
    agreement = stats.share("parity.agreement", sum(i.same_answer for i in items), n, label="equal task answers")
    gap = stats.quantile(
        "parity.logprob_gap",
        [i.worst for i in spoken],
        0.5,
        unit="nats",
        label="largest next-token difference of a prompt, median over prompts",
    )
    measures = (
        agreement,
        gap,
        stats.mean(
            "parity.logprob_gap_mean",
            [fmean(i.gaps) for i in spoken],
            unit="nats",
            better="lower",
            label="mean next-token difference of a prompt, mean over prompts",
        ),
        stats.share("parity.text_equal", sum(i.same_text for i in items), n, label="equal text"),
        stats.share(
            "parity.prompt_equal", sum(i.same_prompt for i in items), n, label="prompts read as equally many tokens"
        ),
    )
    close = gap.high is not None and gap.high <= settings.max_logprob_gap
    agree = agreement.low is not None and agreement.low >= settings.min_agreement
    median = "unknown" if gap.value is None else f"{gap.value:.3f} nats"
    verdict = "The served model answers as the trained one" if close and agree else "Parity is not shown"
    worst = sorted(items, key=lambda i: (i.same_answer, -i.worst))[:_WORST]
    return Report(
        "parity",
        "Served against trained",
        f"{verdict}: {sum(i.same_answer for i in items)} of {n} task answers equal, median largest gap {median}.",
        measures,
        tables=(
            Table(
                "Prompts that differ most",
                ["prompt", "trained", "served", "equal", "largest gap (nats)"],
                [[i.question, i.trained, i.served, i.same_answer, round(i.worst, 4)] for i in worst],
                note="different answers first, then by gap",
            ),
        ),
        plots=(
            Plot(
                "ecdf",
                "Largest next-token difference by prompt",
                "nats",
                "share of prompts",
                [Series("prompts", [], [i.worst for i in spoken])],
                note=f"bound on the median: {settings.max_logprob_gap:g} nats",
            ),
        ),
        facts={
            "bounds": f"agreement at least {settings.min_agreement:g}, gap at most {settings.max_logprob_gap:g} nats",
            "tokens compared": str(sum(len(i.gaps) for i in items)),
        },
        details={"prompts": [{**msgspec.to_builtins(i), "gap": i.worst} for i in items]},
    )
