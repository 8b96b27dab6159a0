"""The store: where assets, runs, releases and exchanges are kept, and how they are found again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.core import digest
from pilothouse.core.errors import UserError
from pilothouse.core.records import Asset, AssetFile
from pilothouse.store import database, schema
from pilothouse.store.files import Files

FOLDER = ".pilothouse"


class Store:
    """One database and one folder of files. Cheap to open; safe to open from several processes."""

    def __init__(self, root: Path, engine: sa.Engine) -> None:
        self.root, self.engine, self.files = root, engine, Files(root)

    @classmethod
    def open(cls, root: Path | None = None, *, create: bool = True) -> Store:
        """The store at `root`, else at $PILOTHOUSE_HOME, else the nearest `.pilothouse` upward, else a new one here."""
        found = root or locate()
        if found is None or not found.exists():
            if not create:
                raise UserError(
                    "there is no Pilothouse store here",
                    where=str(found or Path.cwd()),
                    fix="Go to the folder where you ran `pilothouse ship`, or set PILOTHOUSE_HOME.",
                )
            found = found or Path.cwd() / FOLDER
        try:
            found.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"the store cannot be made ({e.strerror})", where=str(found)) from None
        found = found.resolve()
        return cls(found, database.connect(f"sqlite:///{found / 'pilothouse.db'}"))

    def close(self) -> None:
        """Give back the database's connections."""
        self.engine.dispose()

    # assets

    def add_asset(
        self,
        kind: str,
        name: str,
        files: Mapping[str, Path | bytes],
        *,
        meta: Mapping[str, Any] | None = None,
        licence: str = "",
        origin: str = "",
        move: bool = False,
    ) -> Asset:
        """Keep files under relative POSIX paths as one asset; the same content again is the asset already there.

        move: source files may be taken instead of copied. The database row is written last, so a crash leaves no
        half asset (`pilothouse doctor` removes the files that nobody names).
        """
        kept = []
        for path, content in sorted(files.items()):
            sha, size = (
                self.files.put_bytes(content) if isinstance(content, bytes) else self.files.put_file(content, move=move)
            )
            kept.append(AssetFile(path, sha, size))
        plain = msgspec.to_builtins(dict(meta or {}))
        identity = digest.of_json({"kind": kind, "files": [[f.path, f.sha256] for f in kept], "meta": plain})
        asset = Asset(kind, name, identity, tuple(kept), plain, licence, origin, time.time())
        with self.engine.begin() as c:
            row = c.execute(sa.select(schema.assets.c.record).where(schema.assets.c.digest == identity)).scalar()
            if row is not None:
                return msgspec.json.decode(row, type=Asset)
            c.execute(
                sa.insert(schema.assets).values(
                    digest=identity,
                    kind=kind,
                    name=name,
                    size=asset.size,
                    created=asset.created,
                    record=msgspec.json.encode(asset),
                )
            )
        return asset

    def asset(self, ref: str) -> Asset:
        """The asset by full digest, `kind:name@digest`, `kind:name` (newest) or a digest prefix of ≥ 6 digits."""
        t = schema.assets
        query = sa.select(t.c.record).order_by(t.c.created.desc())
        label, _, short = ref.rpartition("@") if "@" in ref else ("", "", ref)
        if ":" in ref and "@" not in ref:
            label, short = ref, ""
        if label:
            kind, _, name = label.partition(":")
            query = query.where(t.c.kind == kind, t.c.name == name)
        if short:
            if len(short) < 6:
                raise UserError(f"{ref!r} is too short for a digest", fix="Give at least 6 digits, or kind:name.")
            query = query.where(t.c.digest.startswith(short, autoescape=True))
        with self.engine.connect() as c:
            rows = c.execute(query.limit(2)).scalars().all()
        if not rows:
            raise UserError(f"no asset matches {ref!r}", where=str(self.root), fix="See: pilothouse list assets")
        if len(rows) > 1 and short:
            raise UserError(f"{ref!r} matches several assets", fix="Give more digits of the digest.")
        return msgspec.json.decode(rows[0], type=Asset)

    def assets(self, kind: str | None = None) -> list[Asset]:
        """All assets (of a kind), newest first."""
        t = schema.assets
        query = sa.select(t.c.record).order_by(t.c.created.desc())
        with self.engine.connect() as c:
            rows = c.execute(query if kind is None else query.where(t.c.kind == kind)).scalars().all()
        return [msgspec.json.decode(r, type=Asset) for r in rows]

    def folder(self, asset: Asset) -> Path:
        """A folder that holds the asset's files under their own names (hard links; treat as read-only)."""
        folder = self.root / "assets" / asset.digest[:16]
        for file in asset.files:
            if not self.files.path(file.sha256).exists():
                raise UserError(
                    f"{asset.ref} lacks its file {file.path!r}", where=str(self.root), fix="Run: pilothouse doctor"
                )
            self.files.link(file, folder)
        return folder

    def read(self, asset: Asset, path: str) -> bytes:
        """The bytes of one file of an asset."""
        file = next((f for f in asset.files if f.path == path), None)
        if file is None:
            raise KeyError(f"{asset.ref} has no file {path!r}; it has {[f.path for f in asset.files]}")
        return self.files.path(file.sha256).read_bytes()

    # audit

    def audit(self, action: str, subject: str, detail: Any = None, *, actor: str = "cli") -> None:
        """Append one line to the audit log (it is never changed)."""
        with self.engine.begin() as c:
            c.execute(
                sa.insert(schema.audit).values(
                    at=time.time(), actor=actor, action=action, subject=subject, detail=msgspec.json.encode(detail)
                )
            )


def locate() -> Path | None:
    """The store that commands use from here: $PILOTHOUSE_HOME, else the nearest `.pilothouse` upward, else None."""
    if home := os.environ.get("PILOTHOUSE_HOME"):
        return Path(home).expanduser()
    here = Path.cwd()
    return next((p / FOLDER for p in (here, *here.parents) if (p / FOLDER).is_dir()), None)
