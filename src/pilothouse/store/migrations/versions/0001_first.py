"""The first schema: assets, runs and their links, releases, exchanges, feedback, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=primary_key, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "assets",
        _text("digest", primary_key=True),
        _text("kind"),
        _text("name"),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_index("assets_by_kind", "assets", ["kind", "created"])
    op.create_table(
        "runs",
        _text("id", primary_key=True),
        _text("stage"),
        _text("project"),
        _text("key"),
        _text("status"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("pid", sa.Integer),
        _text("error", nullable=True),
        sa.Column("settings", sa.LargeBinary, nullable=False),
        sa.Column("machine", sa.LargeBinary, nullable=False),
        sa.Column("report", sa.LargeBinary),
    )
    op.create_index("runs_by_time", "runs", ["started"])
    op.create_table(
        "run_assets",
        sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
        _text("direction", primary_key=True),
        _text("role", primary_key=True),
        sa.Column("digest", sa.Text, sa.ForeignKey("assets.digest"), nullable=False),
    )
    op.create_index("run_assets_by_digest", "run_assets", ["digest"])
    op.create_table(
        "releases",
        _text("id", primary_key=True),
        _text("project"),
        sa.Column("created", sa.Float, nullable=False),
        _text("verdict"),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "exchanges",
        _text("id", primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        _text("release"),
        _text("model"),
        _text("caller"),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("ttft_ms", sa.Float),
        sa.Column("latency_ms", sa.Float),
        sa.Column("tokens_in", sa.Integer),
        sa.Column("tokens_out", sa.Integer),
        _text("guard"),
        sa.Column("findings", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary),
        _text("answer", nullable=True),
    )
    op.create_index("exchanges_by_time", "exchanges", ["at"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("exchange", sa.Text, sa.ForeignKey("exchanges.id"), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        _text("kind"),
        _text("value"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        _text("actor"),
        _text("action"),
        _text("subject"),
        sa.Column("detail", sa.LargeBinary, nullable=False),
    )
