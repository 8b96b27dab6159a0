"""The release: model, adapter, prompt, policy and engine by digest, with evidence and verdict. Kept for good."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.core.errors import UserError
from pilothouse.core.records import GateResult, Report
from pilothouse.store import runs, schema
from pilothouse.store.store import Store


class Release(msgspec.Struct, frozen=True):
    """A release as recorded. `digests`: role → full digest. `runs`: stage → run id. `created`: epoch seconds."""

    id: str
    project: str
    title: str
    created: float
    verdict: str
    gates: tuple[GateResult, ...]
    digests: dict[str, str]
    runs: dict[str, str]
    machine: dict[str, str]
    serving: dict[str, Any]
    approvals: tuple[dict[str, Any], ...] = ()


def keep(store: Store, release: Release) -> Release:
    """Record a release once; the same evidence again is the release already there."""
    t = schema.releases
    with store.engine.begin() as c:
        row = c.execute(sa.select(t.c.record).where(t.c.id == release.id)).scalar()
        if row is not None:
            return msgspec.json.decode(row, type=Release)
        c.execute(
            sa.insert(t).values(
                id=release.id,
                project=release.project,
                created=release.created,
                verdict=release.verdict,
                record=msgspec.json.encode(release),
            )
        )
    store.audit("release", release.id, {"verdict": release.verdict})
    return release


def every(store: Store, *, project: str | None = None) -> list[Release]:
    """Releases, newest first."""
    t = schema.releases
    query = sa.select(t.c.record).order_by(t.c.created.desc())
    with store.engine.connect() as c:
        rows = c.execute(query if project is None else query.where(t.c.project == project)).scalars().all()
    return [msgspec.json.decode(row, type=Release) for row in rows]


def get(store: Store, release_id: str | None = None) -> Release:
    """The release of that id (or a unique beginning of it); the newest without one."""
    known = every(store)
    if not known:
        raise UserError("there is no release yet", where=str(store.root), fix="Make one with: pilothouse ship PROJECT")
    if release_id is None:
        return known[0]
    found = [r for r in known if r.id == release_id] or [r for r in known if r.id.startswith(release_id)]
    if len(found) != 1:
        problem = "no release" if not found else "more than one release"
        raise UserError(f"{problem} matches {release_id!r}", fix="See: pilothouse list releases")
    return found[0]


def reports(store: Store, release: Release) -> dict[str, Report]:
    """Stage → the report that the release rests on, in the loop's order."""
    found = {stage: runs.find(store, run_id) for stage, run_id in release.runs.items()}
    return {stage: run.report for stage, run in found.items() if run is not None and run.report is not None}
