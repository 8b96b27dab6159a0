"""The data stage: from the project's files to one dataset asset whose rows are clean, apart and accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Row
from pilothouse.core.progress import Progress
from pilothouse.core.project.schema import Data
from pilothouse.core.records import Outcome
from pilothouse.data import canaries, contamination, reference, report
from pilothouse.data.base import Reject
from pilothouse.data.clean import deduplicate, tidy_row
from pilothouse.data.read import loader, read
from pilothouse.data.report import Account, FileAccount
from pilothouse.data.scrub import scrub_row
from pilothouse.data.split import split
from pilothouse.store.rows import encode
from pilothouse.store.runs import Context

SPLITS = ("train", "dev", "test")


def run(ctx: Context, settings: Data, folder: Path, system_prompt: str) -> Outcome:
    """Load, tidy, scrub, deduplicate, split, decontaminate, plant canaries; the asset holds rows without system prompt.

    folder: where the project's relative paths start. system_prompt: an own system message equal to it is taken off a
    row, since the prompt is an asset of its own; another one stays.
    """
    by = loader(settings.format, settings.options)
    files: dict[str, FileAccount] = {}
    rejects: list[Reject] = []
    splits: dict[str, list[Row]] = {}
    pii: Counter[str] = Counter()
    for name in SPLITS:
        wanted: str | None = getattr(settings, name)
        if wanted is None:
            continue
        source = reference.resolve(wanted, folder, ctx.folder / "downloads", ctx.progress, where=f"data.{name}")
        got = read(source, by, ctx.progress)
        rejects += got.rejects
        rows = [_without(tidy_row(row), system_prompt) for row in got.rows]
        with_pii = 0
        if settings.scrub_pii:
            rows, with_pii = _scrub(rows, pii, ctx.progress, name)
        unique = deduplicate(rows)
        splits[name] = unique.rows
        files[name] = FileAccount(
            name=source.shown,
            read=len(got.rows) + len(got.rejects),
            rejected=len(got.rejects),
            exact=unique.exact,
            near=unique.near,
            conflicts=unique.conflicts,
            with_pii=with_pii,
        )
        ctx.log.info("%s: %s", name, msgspec.json.encode(files[name]).decode())
    cut = [name for name in SPLITS if name not in splits]
    if cut:
        shares = {n: s for n, s in zip(SPLITS, settings.split, strict=True) if n == "train" or n in cut}
        splits |= split(splits["train"], shares, seed=settings.seed)
    _distinct_ids(splits)
    ctx.progress.begin("compare train with held-out rows")
    removed = _decontaminate(splits)
    ctx.progress.end()
    if empty := [name for name in SPLITS if not splits[name]]:
        raise UserError(
            f"no row is left in {empty[0]}: each gives away a row of another split",
            where=f"data.{empty[0]}",
            fix="Give splits that do not repeat each other.",
        )
    planted = canaries.make(settings.canaries, settings.seed)
    train = canaries.plant(splits["train"], planted, settings.canary_repeats, settings.seed)
    dataset = ctx.store.add_asset(
        "dataset",
        folder.resolve().name,
        {
            **{f"{name}.jsonl": encode(train if name == "train" else splits[name]) for name in SPLITS},
            "canaries.json": msgspec.json.encode(planted),
            "rejects.jsonl": encode(rejects),
        },
        meta={"rows": {name: len(train if name == "train" else splits[name]) for name in SPLITS}},
        licence=settings.licence,
        origin=", ".join(filter(None, (settings.train, settings.dev, settings.test))),
    )
    account = Account(
        files=files,
        splits=splits,
        rejects=rejects,
        contaminated=removed,
        pii=dict(pii) if settings.scrub_pii else None,
        planted=len(train) - len(splits["train"]),
        canaries=len(planted),
        cut=cut,
        licence=settings.licence,
    )
    return Outcome(report.build(account), {"dataset": dataset})


def _without(row: Row, prompt: str) -> Row:
    first = row.messages[0]
    if first.role == "system" and first.content == prompt.strip():
        return msgspec.structs.replace(row, messages=row.messages[1:])
    return row


def _scrub(rows: list[Row], pii: Counter[str], progress: Progress, name: str) -> tuple[list[Row], int]:
    progress.begin(f"look for personal data in {name}", len(rows))
    clean, touched = [], 0
    for row in rows:
        scrubbed, counts = scrub_row(row)
        clean.append(scrubbed)
        pii.update(counts)
        touched += bool(counts)
        progress.advance()
    progress.end()
    return clean, touched


def _distinct_ids(splits: dict[str, list[Row]]) -> None:
    """Files often count from 0 each: an id that an earlier split has gets its split's name in front."""
    seen: set[str] = set()
    for name in SPLITS:
        rows = splits[name]
        splits[name] = [msgspec.structs.replace(r, id=f"{name}/{r.id}") if r.id in seen else r for r in rows]
        seen |= {row.id for row in splits[name]}


def _decontaminate(splits: dict[str, list[Row]]) -> dict[str, list[contamination.Contaminated]]:
    """Drop train rows that give away a dev or test row, and dev rows that give away a test row."""
    removed: dict[str, list[contamination.Contaminated]] = {}
    for name, against in (("dev", splits["test"]), ("train", [*splits["dev"], *splits["test"]])):
        removed[name] = contamination.find(splits[name], against)
        bad = {c.row for c in removed[name]}
        splits[name] = [row for row in splits[name] if row.id not in bad]
    return removed
