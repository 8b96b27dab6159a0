"""Keys: shown once and hashed, unique while live, changed and revoked for good; usage adds up; secrets leak nowhere."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from calendar import timegm

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pilothouse.core.digest import of_secret
from pilothouse.core.errors import UserError
from pilothouse.core.redact import mask
from pilothouse.store import keys, schema
from pilothouse.store.keys import Usage
from pilothouse.store.store import Store


def everything(store: Store) -> str:
    """The whole database as text: tables, rows and what SQLite wrote beside them."""
    with store.engine.connect() as c:
        rows = [str(tuple(row)) for t in schema.metadata.sorted_tables for row in c.execute(sa.select(t))]
    files = [p.read_bytes().decode("latin-1") for p in store.root.glob("pilothouse.db*")]
    return "\n".join(rows + files)


def at(text: str) -> float:
    return float(timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))


def test_a_secret_is_random_shown_once_and_kept_only_as_its_digest(store: Store) -> None:
    key, secret = keys.add(store, "app")
    other, second = keys.add(store, "desk")
    assert re.fullmatch(r"ph-[A-Za-z0-9_-]{43}", secret) and secret != second
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest() == of_secret(secret) != other.digest
    assert len(of_secret(b"\xff\xfe".decode(errors="surrogateescape"))) == 64  # a header of any bytes
    assert key.shown == f"{secret[:7]}…" and keys.listed(store) == [key, other]
    keys.change(store, "app", budget=5.0)
    keys.revoke(store, "desk")
    held = everything(store)
    assert key.shown[:-1] in held  # the needle's own check: the text does hold what is kept
    assert secret not in held and secret[8:] not in held and second[8:] not in held
    assert key.digest not in msgspec.json.encode(keys.statements(store)).decode() and "digest" not in key.plain()
    assert secret not in mask(f"Authorization: Bearer {secret}") and secret not in mask(f"the key is {secret}.")


def test_the_audit_knows_who_made_changed_and_ended_a_key_without_its_digest(store: Store) -> None:
    key, _ = keys.add(store, "app", requests_per_minute=60)
    keys.change(store, "app", models=("b", "a", "b"), requests_per_minute=None)
    keys.revoke(store, "app")
    with store.engine.connect() as c:
        rows = c.execute(sa.select(schema.audit).order_by(schema.audit.c.id)).all()
    assert [(r.action, r.subject) for r in rows] == [(f"keys.{w}", "app") for w in ("add", "change", "revoke")]
    details = [msgspec.json.decode(r.detail) for r in rows]
    assert details[0] == {"shown": key.shown, "limits": {"requests_per_minute": 60}}
    assert details[1] == {"models": ["a", "b"], "requests_per_minute": None}
    assert all(key.digest.encode() not in r.detail for r in rows)


def test_limits_are_kept_changed_one_by_one_and_taken_away(store: Store) -> None:
    later = time.time() + 60
    made, _ = keys.add(store, "app", requests_per_minute=60, tokens_per_minute=9_000, concurrency=4, expires=later)
    assert (made.requests_per_minute, made.tokens_per_minute, made.concurrency) == (60, 9_000, 4)
    assert made.expires == later and made.budget is None and made.models == ()
    changed = keys.change(store, "app", budget=12.5, models=("airline",), concurrency=None)
    assert (changed.budget, changed.models, changed.concurrency) == (12.5, ("airline",), None)
    assert (changed.requests_per_minute, changed.digest, changed.id) == (60, made.digest, made.id)
    assert keys.listed(store) == [changed]


def test_a_name_is_taken_until_its_key_is_revoked(store: Store) -> None:
    first, _ = keys.add(store, "app")
    with pytest.raises(UserError, match=r"a key called 'app' already.*keys revoke app"):
        keys.add(store, "app")
    ended = keys.revoke(store, "app")
    assert ended.state() == "revoked" and ended.id == first.id
    second, _ = keys.add(store, "app")
    assert [k.state() for k in keys.listed(store)] == ["revoked", "live"] and second.id != first.id
    keys.revoke(store, "app")
    with pytest.raises(UserError, match="no key is called 'app'"):
        keys.revoke(store, "app")


def test_a_key_expires_at_its_time_and_not_before(store: Store) -> None:
    key, _ = keys.add(store, "app", expires=time.time() + 3600)
    assert key.expires is not None
    assert (key.state(), key.state(key.expires - 0.1), key.state(key.expires)) == ("live", "live", "expired")
    assert keys.revoke(store, "app").state(key.expires + 1) == "revoked"


@pytest.mark.parametrize("name", ["", " ", "two words", "-x", "ünïcode", "a" * 65, "a\n", "<b>"])
def test_a_bad_name_is_said(name: str, store: Store) -> None:
    with pytest.raises(UserError, match="no name for a key"):
        keys.add(store, name)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute must be at least 1, not 0"),
        ({"tokens_per_minute": -5}, "tokens_per_minute must be at least 1"),
        ({"concurrency": 2**63}, "concurrency must be"),
        ({"budget": 0.0}, "budget must be an amount above 0"),
        ({"budget": float("nan")}, "budget must be"),
        ({"expires": 1.0}, "expire in the past"),
        ({"models": ("airline", "")}, "a model's name is empty"),
    ],
)
def test_a_bad_limit_is_said_and_nothing_is_kept(limits: dict[str, object], said: str, store: Store) -> None:
    keys.add(store, "there")
    before = keys.version(store)
    with pytest.raises(UserError, match=said):
        keys.add(store, "app", **limits)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        keys.change(store, "there", **limits)  # type: ignore[arg-type]
    assert keys.version(store) == before


def test_a_name_that_is_not_there_is_said_with_one_that_is_near(store: Store) -> None:
    keys.add(store, "airline-app")
    with pytest.raises(UserError, match=r"no key is called 'airlineapp'.*Did you mean 'airline-app'"):
        keys.change(store, "airlineapp", concurrency=1)
    with pytest.raises(UserError, match="nothing to change"):
        keys.change(store, "airline-app")


def test_the_version_changes_with_every_change_and_with_nothing_else(store: Store) -> None:
    seen = [keys.version(store)]
    key, _ = keys.add(store, "a")
    seen.append(keys.version(store))
    keys.add(store, "b")
    seen.append(keys.version(store))
    for _ in range(3):
        keys.change(store, "a", concurrency=2)  # the same again is a change too
        seen.append(keys.version(store))
    keys.revoke(store, "a")
    seen.append(keys.version(store))
    keys.add(store, "a")
    seen.append(keys.version(store))
    assert len(set(seen)) == len(seen)
    keys.add_usage(store, [Usage(key.id, "2026-11-25", requests=1)])
    assert keys.version(store) == seen[-1] == keys.version(Store(store.root, store.engine))


def test_usage_adds_up_over_rows_calls_and_days(store: Store) -> None:
    a, b = (keys.add(store, name)[0].id for name in "ab")
    keys.add_usage(store, [Usage(a, "2026-10-31", 1, 10, 20, 0.5, 0, 100.0), Usage(a, "2026-11-01", 1, 1, 2, 0.25)])
    keys.add_usage(
        store,
        [
            Usage(a, "2026-11-01", requests=2, tokens_in=3, cost=0.5, seen=300.0),
            Usage(a, "2026-11-01", requests=1, refused=4, seen=200.0),
            Usage(b, "2026-11-02", requests=7),
            Usage(0, "2026-11-02", requests=99),
        ],
    )
    keys.add_usage(store, [])
    assert keys.usage(store, "2026-11-01") == {
        a: Usage(a, "2026-11-01", 4, 4, 2, 0.75, 4, 300.0),
        b: Usage(b, "2026-11-01", 7),
    }
    assert keys.usage(store)[a] == Usage(a, "", 5, 14, 22, 1.25, 4, 300.0)
    assert keys.usage(store, "2026-11-03") == {}


def test_the_last_use_never_goes_back(store: Store) -> None:
    a = keys.add(store, "a")[0].id
    for seen in (300.0, 200.0, None):
        keys.add_usage(store, [Usage(a, "2026-11-01", requests=1, seen=seen)])
    assert keys.usage(store)[a].seen == 300.0


def test_a_budget_is_spent_by_calendar_month_in_utc(store: Store) -> None:
    a = keys.add(store, "a", budget=4.0)[0].id
    keys.add_usage(store, [Usage(a, keys.today(at("2026-10-31 23:59:59")), cost=3.0)])
    keys.add_usage(store, [Usage(a, keys.today(at("2026-11-01 00:00:00")), cost=1.0)])
    assert keys.spent(store, a, at("2026-10-31 23:59:59")) == 4.0  # a clock behind its rows counts them all
    assert keys.spent(store, a, at("2026-11-01 00:00:00")) == keys.spent(store, a, at("2026-11-30 23:59:59")) == 1.0
    assert keys.spent(store, a, at("2026-12-01 00:00:00")) == 0.0 == keys.spent(store, 99)
    (shown,) = keys.statements(store, at("2026-11-15 12:00:00"))
    assert shown["month"]["since"] == "2026-11-01" and shown["month"]["share"] == 0.25
    assert keys.statements(store, at("2026-12-15 12:00:00"))[0]["month"]["share"] == 0.0


def test_writers_at_once_lose_nothing(store: Store) -> None:
    a = keys.add(store, "a")[0].id
    others = [Store.open(store.root) for _ in range(4)]

    def write(into: Store) -> None:
        for _ in range(25):
            keys.add_usage(into, [Usage(a, "2026-11-01", requests=1, tokens_out=2, cost=0.25)])
            keys.change(into, "a", concurrency=3)

    before = int(keys.version(store))
    threads = [threading.Thread(target=write, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    used = keys.usage(store)[a]
    assert (used.requests, used.tokens_out, used.cost) == (100, 200, 25.0)
    assert int(keys.version(store)) == before + 100


def test_the_upsert_is_postgresqls_too() -> None:
    text = str(keys._adding("postgresql").compile(dialect=postgresql.dialect()))
    assert "ON CONFLICT (key, day) DO UPDATE SET requests = (key_usage.requests + excluded.requests)" in text


def test_a_store_of_the_first_schema_gains_its_keys_and_loses_nothing(store: Store) -> None:
    from pilothouse.store import database

    store.add_asset("rows", "r", {"a": b"1"})
    with store.engine.begin() as c:
        c.execute(sa.text("drop table key_usage"))
        c.execute(sa.text("drop table keys"))
        for column in ("api", "backend", "finish", "queue_ms", "overhead_us", "trace"):
            c.execute(sa.text(f"alter table exchanges drop column {column}"))
        c.execute(sa.text("update alembic_version set version_num = '0001'"))
    again = Store(store.root, database.connect(str(store.engine.url)))
    keys.add(again, "app")
    assert [k.name for k in keys.listed(again)] == ["app"] and len(again.assets()) == 1
    assert "backend" in {c["name"] for c in sa.inspect(again.engine).get_columns("exchanges")}
    again.close()
