"""The run runner: the one place where a stage's execution gets its key, folder, log, status, resume and lineage."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from pilothouse.core import digest
from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.core.progress import Progress
from pilothouse.core.records import Asset, Outcome, Report
from pilothouse.core.redact import RedactingFormatter, mask
from pilothouse.store import schema
from pilothouse.store.files import disk_full
from pilothouse.store.store import Store

Status = Literal["running", "done", "failed", "interrupted"]
_LIBRARIES = ("pilothouse", "torch", "transformers", "peft", "trl", "gguf", "xllamacpp", "numpy")


class Run(msgspec.Struct, frozen=True):
    """One execution of a stage, as kept. Times are seconds since the epoch."""

    id: str
    stage: str
    project: str
    key: str
    status: str
    attempts: int
    started: float
    ended: float | None
    error: str | None
    settings: dict[str, Any]
    machine: dict[str, str]
    report: Report | None
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Context:
    """What a stage function gets: the store, a folder that survives interruption, a log, progress."""

    id: str
    store: Store
    folder: Path
    log: logging.Logger
    progress: Progress


def execute(
    store: Store,
    stage: str,
    project: str,
    settings: Any,
    inputs: Mapping[str, Asset],
    function: Callable[[Context], Outcome],
    progress: Progress,
    *,
    fresh: bool = False,
) -> Run:
    """Run `function` once for these settings and inputs, or return the finished run with the same key.

    The key is the digest of stage, settings (plain JSON after msgspec), input digests and Pilothouse's version. An
    interrupted or failed run of the same key goes on in its own folder. Raises what the function raises, after the
    status is kept: KeyboardInterrupt → interrupted, anything else → failed. `fresh` forgets an earlier run's folder.
    """
    plain = msgspec.to_builtins(settings)
    version = importlib.metadata.version("pilothouse")
    key = digest.of_json([stage, project, plain, {role: a.digest for role, a in inputs.items()}, version])
    run_id = f"{stage}-{key[:10]}"
    folder = store.root / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"run {run_id} is going on in another process", where=str(folder), fix="Wait for it, or stop it."
            ) from None
        earlier = find(store, run_id)
        if earlier and earlier.status == "done" and not fresh:
            return earlier
        if fresh:
            for old in folder.iterdir():
                if old.name not in ("lock", "log.txt"):
                    _remove(old)
        _begin(store, run_id, stage, project, key, plain, inputs, attempts=(earlier.attempts if earlier else 0) + 1)
        log = _logger(run_id, folder)
        try:
            log.info("attempt %d of %s on %s", (earlier.attempts if earlier else 0) + 1, run_id, platform.node())
            outcome = function(Context(run_id, store, folder, log, progress))
        except KeyboardInterrupt:
            log.warning("interrupted")
            _end(store, run_id, "interrupted", error="interrupted by the user")
            raise
        except OSError as e:
            log.exception("failed")
            _end(store, run_id, "failed", error=mask(str(e)))
            raise (disk_full(e) or e) from None
        except BaseException as e:
            log.exception("failed")
            _end(store, run_id, "failed", error=mask(f"{type(e).__name__}: {e}"))
            raise
        finally:
            _close(log)
        _end(store, run_id, "done", report=outcome.report, outputs=outcome.outputs)
    done = find(store, run_id)
    assert done is not None
    return done


def find(store: Store, run_id: str) -> Run | None:
    """One run by id, or None."""
    with store.engine.connect() as c:
        row = c.execute(sa.select(schema.runs).where(schema.runs.c.id == run_id)).mappings().first()
        return _run(c, row) if row else None


def every(store: Store, *, stage: str | None = None, limit: int = 100) -> list[Run]:
    """Runs, newest first."""
    t = schema.runs
    query = sa.select(t).order_by(t.c.started.desc()).limit(limit)
    with store.engine.connect() as c:
        rows = c.execute(query if stage is None else query.where(t.c.stage == stage)).mappings().all()
        return [_run(c, row) for row in rows]


def output(store: Store, run: Run, role: str) -> Asset:
    """The asset that a finished run made in that role."""
    return store.asset(run.outputs[role])


def _run(c: sa.Connection, row: Any) -> Run:
    links = c.execute(sa.select(schema.run_assets).where(schema.run_assets.c.run == row["id"])).mappings().all()
    sides: dict[str, dict[str, str]] = {"input": {}, "output": {}}
    for link in links:
        sides[link["direction"]][link["role"]] = link["digest"]
    return Run(
        id=row["id"],
        stage=row["stage"],
        project=row["project"],
        key=row["key"],
        status=row["status"],
        attempts=row["attempts"],
        started=row["started"],
        ended=row["ended"],
        error=row["error"],
        settings=msgspec.json.decode(row["settings"]),
        machine=msgspec.json.decode(row["machine"]),
        report=msgspec.json.decode(row["report"], type=Report) if row["report"] else None,
        inputs=sides["input"],
        outputs=sides["output"],
    )


def _begin(
    store: Store,
    run_id: str,
    stage: str,
    project: str,
    key: str,
    settings: Any,
    inputs: Mapping[str, Asset],
    attempts: int,
) -> None:
    t, links = schema.runs, schema.run_assets
    with store.engine.begin() as c:
        c.execute(sa.delete(links).where(links.c.run == run_id))
        c.execute(sa.delete(t).where(t.c.id == run_id))
        c.execute(
            sa.insert(t).values(
                id=run_id,
                stage=stage,
                project=project,
                key=key,
                status="running",
                attempts=attempts,
                started=time.time(),
                pid=os.getpid(),
                settings=msgspec.json.encode(settings),
                machine=msgspec.json.encode(machine()),
            )
        )
        for role, asset in inputs.items():
            c.execute(sa.insert(links).values(run=run_id, direction="input", role=role, digest=asset.digest))


def _end(
    store: Store,
    run_id: str,
    status: Status,
    *,
    error: str | None = None,
    report: Report | None = None,
    outputs: Mapping[str, Asset] | None = None,
) -> None:
    t, links = schema.runs, schema.run_assets
    with store.engine.begin() as c:
        for role, asset in (outputs or {}).items():
            c.execute(sa.insert(links).values(run=run_id, direction="output", role=role, digest=asset.digest))
        c.execute(
            sa.update(t)
            .where(t.c.id == run_id)
            .values(
                status=status,
                ended=time.time(),
                pid=None,
                error=error,
                report=msgspec.json.encode(report) if report else None,
            )
        )


def _logger(run_id: str, folder: Path) -> logging.Logger:
    log = logging.getLogger(f"pilothouse.run.{run_id}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


def _close(log: logging.Logger) -> None:
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def machine() -> dict[str, str]:
    """What this machine is and which library versions run on it, for the record."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith(("model name", "Model"))
        ),
        platform.processor() or platform.machine(),
    )
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []
