"""Keys of callers, hashed, with their limits; and what each used on each day."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "keys",
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
    op.create_index("keys_by_digest", "keys", ["digest"], unique=True)
    live = sa.text("revoked IS NULL")
    op.create_index("keys_by_live_name", "keys", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "key_usage",
        sa.Column("key", sa.Integer, sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens_in", sa.BigInteger, nullable=False),
        sa.Column("tokens_out", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Float, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.Float),
    )
