"""Is the store whole? Finds what a crash or a full disk left behind, cleans what is safe to clean, and says so."""

from __future__ import annotations

import os
import shutil
import time

import msgspec
import sqlalchemy as sa

from pilothouse.core import digest
from pilothouse.store import schema
from pilothouse.store.store import Store

_YOUNG_S = 3600.0


class Remark(msgspec.Struct, frozen=True):
    """One thing found. `state`: ok, cleaned (was wrong, is mended) or broken (needs the user)."""

    state: str
    what: str
    fix: str = ""


def check(store: Store, *, deep: bool = False) -> list[Remark]:
    """Look at everything; deep also re-reads every file and compares its digest. Never removes what an asset names."""
    return [*_database(store), *_runs(store), *_staging(store), *_files(store, deep=deep)]


def _database(store: Store) -> list[Remark]:
    if store.engine.dialect.name != "sqlite":
        return []
    with store.engine.connect() as c:
        verdict = c.execute(sa.text("PRAGMA quick_check")).scalar()
    if verdict == "ok":
        return [Remark("ok", "database: whole")]
    return [Remark("broken", f"database: {verdict}", "Restore pilothouse.db from a backup.")]


def _runs(store: Store) -> list[Remark]:
    """Runs that say running although their process is gone."""
    t = schema.runs
    with store.engine.begin() as c:
        rows = c.execute(sa.select(t.c.id, t.c.pid).where(t.c.status == "running")).all()
        dead = [row.id for row in rows if not alive(row.pid)]
        if dead:
            c.execute(
                sa.update(t)
                .where(t.c.id.in_(dead))
                .values(status="interrupted", ended=time.time(), pid=None, error="its process ended without a word")
            )
    said = "marked interrupted (its process is gone); run it again to resume"
    return [Remark("cleaned", f"run {r}: {said}") for r in dead]


def _staging(store: Store) -> list[Remark]:
    """Half-written files in tmp/: removed once no writer can still be at them."""
    found, size = 0, 0
    for path in list(store.files.tmp.glob("*")) if store.files.tmp.exists() else []:
        if _busy(store) and time.time() - path.stat().st_mtime < _YOUNG_S:
            continue
        size += path.stat().st_size if path.is_file() else 0
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        found += 1
    return [Remark("cleaned", f"tmp: {found} half-written file(s) removed, {size / 1e6:.1f} MB")] if found else []


def _files(store: Store, *, deep: bool) -> list[Remark]:
    assets = store.assets()
    named = {f.sha256: a.ref for a in assets for f in a.files}
    remarks, seen, loose, size = [], set(), 0, 0
    for path in store.files.every():
        if path.name in named:
            seen.add(path.name)
            if deep and digest.of_file(path) != path.name:
                fix = "Remove the file and run the stage that made it again."
                remarks.append(Remark("broken", f"{named[path.name]}: the bytes of {path} have changed", fix))
        elif not (_busy(store) and time.time() - path.stat().st_mtime < _YOUNG_S):
            size += path.stat().st_size
            path.unlink(missing_ok=True)
            loose += 1
    if loose:
        remarks.append(Remark("cleaned", f"files: {loose} file(s) that no asset names removed, {size / 1e6:.1f} MB"))
    for sha in named.keys() - seen:
        fix = "Run the stage that made it again with --fresh, or pull it again."
        remarks.append(Remark("broken", f"{named[sha]}: a file is missing ({sha[:12]})", fix))
    known = {a.digest[:16] for a in assets}
    for folder in (store.root / "assets").glob("*") if (store.root / "assets").exists() else []:
        if folder.name not in known:
            shutil.rmtree(folder)
            remarks.append(Remark("cleaned", f"assets/{folder.name}: a view of no known asset removed"))
    if not any(r.state == "broken" for r in remarks):
        remarks.append(Remark("ok", f"files: {len(assets)} asset(s), {len(seen)} file(s), all there"))
    return remarks


def _busy(store: Store) -> bool:
    """Is any run going on (whose unnamed files must be left alone)?"""
    t = schema.runs
    with store.engine.connect() as c:
        pids = c.execute(sa.select(t.c.pid).where(t.c.status == "running")).scalars().all()
    return any(alive(pid) for pid in pids)


def alive(pid: int | None) -> bool:
    """Does a process of that id run?"""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
