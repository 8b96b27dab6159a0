"""What the data stage says of its rows: how many, what was dropped and why, how long they are, how they are spread."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np

from pilothouse.core import stats
from pilothouse.core.messages import Row
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.data.base import Reject
from pilothouse.data.contamination import Contaminated

_QUANTILES = (0.05, 0.5, 0.95, 1.0)
_LISTED = 20


class FileAccount(msgspec.Struct, frozen=True):
    """What happened to the rows of one file."""

    name: str
    read: int
    rejected: int
    exact: int
    near: int
    conflicts: int
    with_pii: int


class Account(msgspec.Struct, frozen=True):
    """All that the stage counted. splits: rows kept, canaries apart. pii: by kind, None when nobody looked."""

    files: dict[str, FileAccount]
    splits: dict[str, list[Row]]
    rejects: list[Reject]
    contaminated: dict[str, list[Contaminated]]
    pii: dict[str, int] | None
    planted: int
    canaries: int
    cut: list[str]
    licence: str


def build(account: Account) -> Report:
    """The stage's report."""
    sizes = {name: len(rows) for name, rows in account.splits.items()}
    contaminated = sum(len(found) for found in account.contaminated.values())
    duplicates = sum(f.exact + f.near for f in account.files.values())
    summary = (
        f"{sizes['train']} rows to train on, {sizes['dev']} to tune by, {sizes['test']} to test with; "
        f"{len(account.rejects)} rejected, {duplicates} duplicates and {contaminated} contaminated rows dropped."
    )
    conflicts = sum(f.conflicts for f in account.files.values())
    facts = {
        "files": ", ".join(f"{split}: {f.name}" for split, f in account.files.items()),
        "cut from train by group": ", ".join(account.cut) or "none",
        "same question, another answer": f"{conflicts} rows, kept",
        "own system message": f"{sum(_has_system(r) for rows in account.splits.values() for r in rows)} rows, kept",
        "canaries in train": f"{account.canaries} secrets, {account.planted} rows",
        "licence": account.licence or "not stated",
    }
    if account.pii:
        facts["personal data replaced"] = ", ".join(f"{n} × {kind}" for kind, n in sorted(account.pii.items()))
    return Report(
        "data",
        "The rows",
        summary,
        measures=_measures(account, sizes, duplicates),
        tables=tuple(t for t in (_splits(account), _rejects(account), _lengths(account), _tags(account)) if t.rows),
        plots=_plots(account),
        facts=facts,
        details={
            "contaminated": {name: found[:_LISTED] for name, found in account.contaminated.items()},
            "rejects": account.rejects[:_LISTED],
            "pii": account.pii,
        },
    )


def _measures(account: Account, sizes: dict[str, int], duplicates: int) -> tuple[Measure, ...]:
    read = sum(f.read for f in account.files.values())
    loaded = read - len(account.rejects)
    dropped = len(account.contaminated["train"])
    counts = [
        Measure(f"data.rows_{name}", float(n), "count", float(n), float(n), n, "counted", label=f"rows in {name}")
        for name, n in sizes.items()
    ]
    pii = (
        Measure("data.pii", None, "share", method="not looked for: data.scrub_pii is off", label="rows with PII")
        if account.pii is None
        else stats.share(
            "data.pii",
            sum(f.with_pii for f in account.files.values()),
            loaded,
            label="rows with personal data, replaced",
            better="lower",
        )
    )
    return (
        *counts,
        stats.share("data.rejects", len(account.rejects), read, label="rows rejected", better="lower"),
        stats.share("data.duplicates", duplicates, loaded, label="duplicate rows dropped", better="lower"),
        stats.share(
            "data.contamination",
            dropped,
            sizes["train"] + dropped,
            label="train rows that gave away a held-out row, dropped",
            better="lower",
        ),
        pii,
    )


def _splits(account: Account) -> Table:
    rows: list[list[object]] = []
    for name, kept in account.splits.items():
        file = account.files.get(name)
        lost = len(account.contaminated.get(name, ()))
        before = [file.read, file.rejected, file.exact, file.near] if file else [None] * 4
        rows.append([name, *before, lost, len(kept)])
    note = "Splits without a file are cut from train by group. Contaminated: gives away a row of a later split."
    columns = ["split", "read", "rejected", "exact duplicates", "near duplicates", "contaminated", "kept"]
    return Table("Rows by split", columns, rows, note)


def _rejects(account: Account) -> Table:
    first: dict[str, Reject] = {}
    for reject in account.rejects:
        first.setdefault(reject.reason, reject)
    counts = Counter(r.reason for r in account.rejects)
    return Table(
        "Rejected rows by reason",
        ["reason", "rows", "first"],
        [[reason, n, first[reason].say()] for reason, n in counts.most_common()],
        "All of them are in rejects.jsonl.",
    )


def _lengths(account: Account) -> Table:
    rows: list[list[object]] = []
    for name, kept in account.splits.items():
        asked = [sum(len(m.content) for m in r.messages) for r in kept]
        for what, values in (("question", asked), ("answer", [len(r.answer) for r in kept])):
            if values:
                rows.append([name, what, len(values), *(round(float(np.quantile(values, q))) for q in _QUANTILES)])
    columns = ["split", "text", "n", *(f"p{q * 100:.0f}" if q < 1 else "longest" for q in _QUANTILES)]
    return Table("Length in characters", columns, rows, "Tokens depend on the model; the tune stage counts them.")


def _tags(account: Account) -> Table:
    counts = {name: Counter(t for r in rows for t in r.tags) for name, rows in account.splits.items()}
    tags = sorted({t for c in counts.values() for t in c}, key=lambda t: (-counts["train"][t], t))
    return Table("Rows by tag", ["tag", *counts], [[t, *(c[t] for c in counts.values())] for t in tags])


def _plots(account: Account) -> tuple[Plot, ...]:
    lengths = [Series(name, [], [float(len(r.answer)) for r in rows]) for name, rows in account.splits.items() if rows]
    ecdf = Plot("ecdf", "Length of answers", "characters", "share of rows", lengths)
    table = _tags(account)
    if not table.rows:
        return (ecdf,)
    shown = table.rows[:30]
    bars = [
        Series(name, [r[0] for r in shown], [float(r[i]) for r in shown]) for i, name in enumerate(table.columns[1:], 1)
    ]
    more = len(table.rows) - len(shown)
    return ecdf, Plot("bar", "Rows by tag", "tag", "rows", bars, f"{more} rarer tags are not shown." if more else "")


def _has_system(row: Row) -> bool:
    return row.messages[0].role == "system"
