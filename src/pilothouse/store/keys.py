"""Who may call, how much, and how much did they? Keys of callers with their limits, and what each used a day.

A key's secret is random and shown once; the store holds its SHA-256. Plain SHA-256 is enough here: 256 random bits
leave nothing to guess, and the gateway must look a key up in microseconds. A budget is money a calendar month (UTC),
in the currency of the prices that the gateway counts with.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, TypedDict, Unpack

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pilothouse.core.digest import of_secret
from pilothouse.core.errors import UserError
from pilothouse.store import schema
from pilothouse.store.store import Store

PREFIX = "ph-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_COUNTS = ("requests", "tokens_in", "tokens_out", "cost", "refused")


class Key(msgspec.Struct, frozen=True):
    """One caller's key. A limit of None does not limit; no models means all. Times are seconds since the epoch.

    digest: SHA-256 of the secret in hex, for the gateway alone; `plain` leaves it out. shown: the secret's start.
    """

    id: int
    name: str
    digest: str
    shown: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget: float | None = None
    models: tuple[str, ...] = ()

    def state(self, now: float | None = None) -> str:
        """live, expired or revoked. Expiry comes without a change in the table: ask at every request."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= (now or time.time()) else "live"

    def plain(self) -> dict[str, Any]:
        """Everything that may be shown."""
        return {**{k: v for k, v in msgspec.structs.asdict(self).items() if k != "digest"}, "state": self.state()}


class Limits(TypedDict, total=False):
    """What `add` and `change` take; None takes a limit away."""

    expires: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    budget: float | None
    models: tuple[str, ...]


class Usage(msgspec.Struct, frozen=True):
    """What a key used on a day (UTC, `YYYY-MM-DD`), or since that day. refused: requests that a limit turned away."""

    key: int
    day: str
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    refused: int = 0
    seen: float | None = None


def add(store: Store, name: str, **limits: Unpack[Limits]) -> tuple[Key, str]:
    """A new key and its secret, which is nowhere else and cannot be had again."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a key", fix="Use 1 to 64 letters, digits and . _ @ -, first a letter or digit."
        )
    values = _checked(limits)
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {"name": name, "digest": of_secret(secret), "shown": f"{secret[:7]}…", "created": time.time(), "changes": 1}
    try:
        with store.engine.begin() as c:
            c.execute(sa.insert(schema.keys).values({"models": b"[]", **row, **values}))
    except sa.exc.IntegrityError:
        raise UserError(
            f"there is a key called {name!r} already",
            fix=f"Take another name, or: pilothouse keys change {name}, pilothouse keys revoke {name}",
        ) from None
    made = _live(store, name)
    store.audit("keys.add", name, {"shown": made.shown, "limits": _said(values)})
    return made, secret


def change(store: Store, name: str, **limits: Unpack[Limits]) -> Key:
    """Set the limits that are given, leave the others; the key as it is now."""
    values = _checked(limits)
    if not values:
        raise UserError("nothing to change was given", fix="See: pilothouse keys change --help")
    _update(store, name, values)
    store.audit("keys.change", name, _said(values))
    return _live(store, name)


def revoke(store: Store, name: str) -> Key:
    """End a key for good; its usage stays, its name is free again."""
    ended = _live(store, name)
    _update(store, name, {"revoked": time.time()})
    store.audit("keys.revoke", name, {"shown": ended.shown})
    return next(k for k in listed(store) if k.id == ended.id)


def listed(store: Store) -> list[Key]:
    """Every key, revoked ones too, in the order they were made."""
    columns = [schema.keys.c[f] for f in Key.__struct_fields__]
    with store.engine.connect() as c:
        rows = c.execute(sa.select(*columns).order_by(schema.keys.c.id)).mappings().all()
    return [Key(**{**row, "models": msgspec.json.decode(row["models"], type=tuple[str, ...])}) for row in rows]


def version(store: Store) -> str:
    """Changes whenever a key is added, changed or revoked (rows only grow, each counts its changes). One small query.

    A key that expires changes no row: see `Key.state`.
    """
    with store.engine.connect() as c:
        return str(c.execute(sa.select(sa.func.coalesce(sa.func.sum(schema.keys.c.changes), 0))).scalar())


def add_usage(store: Store, rows: Iterable[Usage]) -> None:
    """Add to what keys used. Safe from several processes at once; rows of no key (key 0) are left out."""
    sums: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        if row.key:
            held = sums.setdefault((row.key, row.day), {**msgspec.structs.asdict(Usage(row.key, row.day))})
            held |= {name: held[name] + getattr(row, name) for name in _COUNTS}
            held["seen"] = max(held["seen"] or 0.0, row.seen or 0.0) or None
    if not sums:
        return
    with store.engine.begin() as c:
        c.execute(_adding(store.engine.dialect.name), [sums[at] for at in sorted(sums)])


def usage(store: Store, since: str | None = None) -> dict[int, Usage]:
    """Key id → what it used since that day (UTC, itself included), or ever."""
    t = schema.key_usage
    query = sa.select(t.c.key, *(sa.func.sum(t.c[n]).label(n) for n in _COUNTS), sa.func.max(t.c.seen).label("seen"))
    if since is not None:
        query = query.where(t.c.day >= since)
    with store.engine.connect() as c:
        rows = c.execute(query.group_by(t.c.key)).mappings().all()
    whole = ("requests", "tokens_in", "tokens_out", "refused")  # PostgreSQL sums a BIGINT to a Decimal
    return {r["key"]: Usage(**{**r, **{n: int(r[n]) for n in whole}, "day": since or ""}) for r in rows}


def spent(store: Store, key: int, now: float | None = None) -> float:
    """What a key's requests cost in this calendar month (UTC): what its budget is measured against."""
    t = schema.key_usage
    query = sa.select(sa.func.coalesce(sa.func.sum(t.c.cost), 0.0)).where(t.c.key == key, t.c.day >= month(now))
    with store.engine.connect() as c:
        return float(c.execute(query).scalar_one())


def today(now: float | None = None) -> str:
    """The day (UTC) that usage is counted on."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def month(now: float | None = None) -> str:
    """The first day of this calendar month (UTC)."""
    return time.strftime("%Y-%m-01", time.gmtime(now))


def statements(store: Store, now: float | None = None) -> list[dict[str, Any]]:
    """Every key as it may be shown, with `month`: what it used this month and `share`, the used part of its budget."""
    since = month(now)
    used = usage(store, since)
    shown = []
    for key in listed(store):
        of = used.get(key.id, Usage(key.id, since))
        spent = {name: getattr(of, name) for name in (*_COUNTS, "seen")}
        share = of.cost / key.budget if key.budget else None
        shown.append({**key.plain(), "month": {"since": since, **spent, "share": share}})
    return shown


def _live(store: Store, name: str) -> Key:
    found = [k for k in listed(store) if k.revoked is None]
    for key in found:
        if key.name == name:
            return key
    near = difflib.get_close_matches(name, [k.name for k in found], n=1)
    raise UserError(
        f"no key is called {name!r}", fix=f"Did you mean {near[0]!r}?" if near else "See: pilothouse keys list"
    )


def _update(store: Store, name: str, values: dict[str, Any]) -> None:
    t = schema.keys
    query = sa.update(t).where(t.c.name == name, t.c.revoked.is_(None)).values(**values, changes=t.c.changes + 1)
    with store.engine.begin() as c:
        done = c.execute(query).rowcount
    if not done:
        _live(store, name)  # raises: there is none


def _checked(limits: Limits) -> dict[str, Any]:
    """Limits as columns, or a UserError that names the one that is wrong."""
    values: dict[str, Any] = dict(limits)
    for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        given = values.get(name)
        if given is not None and not 1 <= given < 2**63:
            raise UserError(f"{name} must be at least 1, not {given!r}", fix="To end a key's use, revoke it.")
    budget, expires = values.get("budget"), values.get("expires")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise UserError(f"budget must be an amount above 0, not {budget!r}", fix="To end a key's use, revoke it.")
    if expires is not None and not (math.isfinite(expires) and expires > time.time()):
        raise UserError("a key cannot expire in the past", fix="Give a later time, or revoke it.")
    if "models" in values:
        if not all(values["models"]):
            raise UserError("a model's name is empty", fix="Give names like: --models airline,airline-base")
        values["models"] = msgspec.json.encode(sorted(set(values["models"])))
    return values


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """Limits as the audit keeps them."""
    return {k: msgspec.json.decode(v) if k == "models" else v for k, v in values.items()}


def _adding(dialect: str) -> sa.Insert:
    """INSERT that adds to a row that is there; SQLite and PostgreSQL spell it alike, SQLAlchemy has no common word."""
    t = schema.key_usage
    insert = postgresql.insert(t) if dialect == "postgresql" else sqlite.insert(t)
    new = insert.excluded
    later = sa.case((sa.func.coalesce(t.c.seen, 0.0) < sa.func.coalesce(new.seen, 0.0), new.seen), else_=t.c.seen)
    sums = {name: t.c[name] + new[name] for name in _COUNTS}
    return insert.on_conflict_do_update(index_elements=["key", "day"], set_={**sums, "seen": later})
