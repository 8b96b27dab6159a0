"""The guard sheet: what the policy stops, whom it refuses wrongly, what it costs, and whether anything leaks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pilothouse.core.project.schema import Guard
from pilothouse.core.records import Outcome
from pilothouse.guard import plants
from pilothouse.guard.base import Exact
from pilothouse.guard.policy import Policy, compile_policy
from pilothouse.guard.report import report
from pilothouse.guard.sheet import Judged, Sheet
from pilothouse.store.rows import encode
from pilothouse.store.runs import Context

CHUNK = 4  # characters: about one token of English text


def run(
    ctx: Context, settings: Guard, attacks: Sequence[str], benign: Sequence[str], folder: Path | None = None
) -> Outcome:
    """Measure the policy on attacks and on the project's own good texts. Takes seconds, so it starts anew each time."""
    policy = compile_policy(settings, folder=folder)
    sheet = Sheet([rule.label for rule in policy.rules])
    ctx.progress.begin("guard: requests", len(attacks) + len(benign))
    policy.check_input([*attacks[:3], *benign[:3]])  # imports and caches are not a request's cost
    for kind, texts in (("attack", attacks), ("benign", benign)):
        for text in texts:
            sheet.judged.append(_judge(policy, kind, text))
            ctx.progress.advance()
    ctx.progress.begin("guard: streams", len(benign))
    for text in benign:
        _stream(policy, text, sheet)
        ctx.progress.advance()
    _plant(ctx, policy, sheet)
    ctx.progress.end()
    kept = ctx.store.add_asset(
        "rows",
        "guard-decisions",
        {"decisions.jsonl": encode(msgspec.structs.replace(j, ms=0.0) for j in sheet.judged)},
        meta={"attacks": len(attacks), "benign": len(benign)},
        origin=f"run:{ctx.id}",
    )
    return Outcome(report(sheet), {"decisions": kept})


def _judge(policy: Policy, kind: str, text: str) -> Judged:
    began = time.perf_counter()
    said = policy.check_input([text])
    ms = (time.perf_counter() - began) * 1000
    return Judged(kind, said.texts[0], said.action, said.detector, said.findings, said.unscanned, ms)


def _stream(policy: Policy, text: str, sheet: Sheet) -> None:
    """A good text as if the model had said it: what each chunk costs and how much waits."""
    chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    if not chunks:
        return
    stream, out, held = policy.output(), [], []
    began = time.perf_counter()
    for chunk in chunks:
        out.append(stream.feed(chunk).text)
        held.append(stream.held)
    out.append(stream.finish().text)
    sheet.chunk_us.append((time.perf_counter() - began) / len(chunks) * 1e6)
    sheet.held.append(held)
    sheet.blocked_benign_output += stream.blocked is not None
    sheet.changed_benign += stream.blocked is None and "".join(out) != text


def _plant(ctx: Context, policy: Policy, sheet: Sheet) -> None:
    cutting = [
        pattern.category
        for rule in policy.rules
        if "output" in rule.rule.on and rule.rule.action != "flag" and isinstance(rule.detector.stream, Exact)
        for pattern in rule.detector.stream.patterns
    ]
    sheet.uncovered = sorted(set(plants.MAKERS) - set(cutting))
    made = plants.make(cutting, plants.PER_SHEET)
    ctx.progress.begin("guard: planted leaks", len(made))
    for plant in made:
        counts = sheet.planted.setdefault(plant.category, [0, 0])
        counts[0] += plants.leaks(policy, plant)
        counts[1] += 1
        ctx.progress.advance()
