"""The tables, as SQLAlchemy Core knows them. `migrations/versions` builds exactly these (a test compares)."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)
sa.Index("assets_by_kind", assets.c.kind, assets.c.created)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("pid", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("machine", sa.LargeBinary, nullable=False),
    sa.Column("report", sa.LargeBinary),
)
sa.Index("runs_by_time", runs.c.started)

run_assets = sa.Table(
    "run_assets",
    metadata,
    sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("direction", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, sa.ForeignKey("assets.digest"), nullable=False),
)
sa.Index("run_assets_by_digest", run_assets.c.digest)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)

exchanges = sa.Table(
    "exchanges",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("ttft_ms", sa.Float),
    sa.Column("latency_ms", sa.Float),
    sa.Column("tokens_in", sa.Integer),
    sa.Column("tokens_out", sa.Integer),
    sa.Column("guard", sa.Text, nullable=False),
    sa.Column("findings", sa.LargeBinary, nullable=False),
    sa.Column("request", sa.LargeBinary),
    sa.Column("answer", sa.Text),
    sa.Column("api", sa.Text),
    sa.Column("backend", sa.Text),
    sa.Column("finish", sa.Text),
    sa.Column("queue_ms", sa.Float),
    sa.Column("overhead_us", sa.Float),
    sa.Column("trace", sa.Text),
)
sa.Index("exchanges_by_time", exchanges.c.at)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("exchange", sa.Text, sa.ForeignKey("exchanges.id"), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.LargeBinary, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("concurrency", sa.BigInteger),
    sa.Column("budget", sa.Float),
    sa.Column("models", sa.LargeBinary, nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
)
sa.Index("keys_by_digest", keys.c.digest, unique=True)
_live = keys.c.revoked.is_(None)
sa.Index("keys_by_live_name", keys.c.name, unique=True, sqlite_where=_live, postgresql_where=_live)

key_usage = sa.Table(
    "key_usage",
    metadata,
    sa.Column("key", sa.Integer, sa.ForeignKey("keys.id"), primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Float),
)
