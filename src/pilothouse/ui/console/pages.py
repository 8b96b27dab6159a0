"""What does each page know? One function a page: plain data that the templates show and `?format=json` returns."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.core.errors import UserError
from pilothouse.core.records import Asset
from pilothouse.release import record
from pilothouse.store import exchanges, keys, lineage, runs, schema
from pilothouse.store.doctor import alive
from pilothouse.store.store import Store
from pilothouse.ui.console import gateway

_LOG_BYTES = 64 << 10
LIVE_WINDOW_S = 300.0


def home(store: Store, metrics_url: str | None) -> dict[str, Any]:
    """Releases, newest first; what is served now; the newest runs."""
    return {
        "serving": serving(store, metrics_url),
        "releases": [_brief(r) for r in record.every(store)],
        "runs": every_run(store, limit=8)["runs"],
    }


def serving(store: Store, metrics_url: str | None) -> dict[str, Any]:
    """The gateway's health, and the release that the newest living `serve` process put behind it."""
    t = schema.audit
    query = sa.select(t.c.subject, t.c.at, t.c.detail).where(t.c.action == "serve").order_by(t.c.id.desc()).limit(1)
    with store.engine.connect() as c:
        row = c.execute(query).first()
    found = {**gateway.health(metrics_url), "release": None, "since": None, "url": None}
    if row is not None and found["reachable"]:
        detail = msgspec.json.decode(row.detail)
        if alive(detail.get("pid")):
            found |= {"release": row.subject, "since": row.at, "url": detail.get("url")}
    return found


def releases(store: Store) -> dict[str, Any]:
    """Every release, briefly."""
    return {"releases": [_brief(r) for r in record.every(store)]}


def release(store: Store, release_id: str) -> dict[str, Any]:
    """One release with its reports: the same fields as `pilothouse show release --json`."""
    found = record.get(store, release_id)
    return {**msgspec.to_builtins(found), "reports": msgspec.to_builtins(record.reports(store, found))}


def every_run(store: Store, *, limit: int = 200) -> dict[str, Any]:
    """Runs, newest first, without their reports. One whose process is gone is not called running."""
    gone = _gone(store)
    shown = []
    for r in runs.every(store, limit=limit):
        status = "interrupted" if r.id in gone else r.status
        ended = r.ended or (None if r.id in gone else time.time())
        shown.append(
            {
                "id": r.id,
                "stage": r.stage,
                "project": r.project,
                "status": status,
                "attempts": r.attempts,
                "started": r.started,
                "seconds": ended - r.started if ended is not None else None,
                "summary": r.report.summary if r.report else (r.error or ""),
            }
        )
    return {"runs": shown}


def run(store: Store, run_id: str) -> dict[str, Any]:
    """One run whole, with its assets by name and the end of its log."""
    found = runs.find(store, run_id)
    if found is None:
        raise UserError(f"no run is called {run_id!r}")
    plain: dict[str, Any] = msgspec.to_builtins(found)
    if found.id in _gone(store):
        plain |= {"status": "interrupted", "error": "its process ended without a word; run it again to resume"}
    known = {a.digest: a.ref for a in store.assets()}
    plain["assets"] = {d: known.get(d, d) for d in (*found.inputs.values(), *found.outputs.values())}
    plain["log"] = _log(store, found.id)
    return plain


def live(store: Store, metrics_url: str | None) -> dict[str, Any]:
    """The gateway's figures since it started, measures of the last minutes, the last 20 exchanges."""
    measures, decisions = exchanges.window(store, seconds=LIVE_WINDOW_S)
    return {
        "at": time.time(),
        "gateway": gateway.figures(metrics_url),
        "window_s": LIVE_WINDOW_S,
        "measures": msgspec.to_builtins(measures),
        "guard": decisions,
        "exchanges": exchanges.recent(store, limit=20),
    }


def assets(store: Store) -> dict[str, Any]:
    """Every asset, newest first."""
    return {"assets": [_asset(a) for a in store.assets()]}


def asset(store: Store, digest: str) -> dict[str, Any]:
    """One asset, what it was made of and what was made of it."""
    found = store.asset(digest)
    return {
        **_asset(found),
        "lineage": msgspec.to_builtins(lineage.upstream(store, found)),
        "used_by": [
            {"run": run_id, "role": role, "asset": store.asset(made).ref, "digest": made}
            for run_id, role, made in lineage.downstream(store, found)
        ],
    }


def every_key(store: Store) -> dict[str, Any]:
    """Every key with its limits and this month's usage, never its digest; revoked ones last."""
    shown = sorted(keys.statements(store), key=lambda k: k["state"] == "revoked")
    return {"since": keys.month(), "keys": shown}


def _asset(found: Asset) -> dict[str, Any]:
    """Every field, empty ones too, and the two that are derived."""
    return {**msgspec.structs.asdict(found), "ref": found.ref, "size": found.size}


def _brief(release: record.Release) -> dict[str, Any]:
    tally = {word: sum(g.verdict == word for g in release.gates) for word in ("pass", "fail", "inconclusive")}
    return {
        "id": release.id,
        "project": release.project,
        "title": release.title,
        "created": release.created,
        "verdict": release.verdict,
        "gates": tally,
    }


def _gone(store: Store) -> set[str]:
    """Runs that say running although their process is no more (kill -9, power cut)."""
    t = schema.runs
    with store.engine.connect() as c:
        rows = c.execute(sa.select(t.c.id, t.c.pid).where(t.c.status == "running")).all()
    return {row.id for row in rows if not alive(row.pid)}


def _log(store: Store, run_id: str) -> str:
    path = store.root / "runs" / run_id / "log.txt"
    if not path.is_file():
        return ""
    with path.open("rb") as f:
        size = f.seek(0, 2)
        f.seek(max(0, size - _LOG_BYTES))
        text = f.read().decode(errors="replace")
    return text if size <= _LOG_BYTES else "…" + text.partition("\n")[2]
