"""All usable rows of one file and the reasons for the rest; a file that is mostly wrong is the user's to mend."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from pilothouse.core import digest, registry
from pilothouse.core.errors import UserError
from pilothouse.core.messages import Row
from pilothouse.core.progress import Progress
from pilothouse.data.base import Loaded, Loader, Reject, Source

REJECTED_AT_MOST = 0.01


class Read(msgspec.Struct, frozen=True):
    """What a file gave."""

    rows: list[Row]
    rejects: list[Reject]


def loader(name: str, options: Mapping[str, Any]) -> Loader:
    """The loader of that name; a wrong option is a UserError that names the right ones."""
    module = registry.module("loaders", name, where="data.format")
    known = list(inspect.signature(module.create).parameters)
    for option in options:
        if option not in known:
            listed = f"It takes {', '.join(known)}." if known else "It takes none."
            raise UserError(f"{name} has no option {option!r}", where="data.options", fix=listed)
    made: Loader = module.create(**options)
    return made


def read(source: Source, by: Loader, progress: Progress) -> Read:
    """Read the whole file. More than 1 % rejects, or no row at all, is a UserError that names the first reject."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    content: dict[str, str] = {}
    progress.begin(f"read {source.shown}")
    for item in by.rows(source):
        result = _unique(item, content, source) if isinstance(item, Loaded) else item
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            rows.append(result.row)
        progress.advance()
    progress.end()
    if not rows and not rejects:
        raise UserError("the file has no rows", where=source.shown)
    total = len(rows) + len(rejects)
    if not rows or len(rejects) > REJECTED_AT_MOST * total:
        first = rejects[0]
        where = f"{first.file}:{first.line}" + (f": {first.field}" if first.field else "")
        raise UserError(
            first.reason + (f" ({first.detail})" if first.detail else ""),
            where=where,
            fix=f"{len(rejects)} of {total} rows are unusable; at most {REJECTED_AT_MOST:.0%} may be.",
        )
    return Read(rows, rejects)


def _unique(item: Loaded, content: dict[str, str], source: Source) -> Loaded | Reject:
    """The same id twice is a reject, unless the row is the same: that is a duplicate, counted later."""
    mine = digest.of_json([item.row.messages, item.row.answer])
    if content.setdefault(item.row.id, mine) != mine:
        return Reject(source.shown, item.line, "id", "id used twice", item.row.id)
    return item
