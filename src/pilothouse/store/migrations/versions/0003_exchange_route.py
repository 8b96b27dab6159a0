"""How an exchange went: the form it was asked in, which engine, how it ended, and our own share of its time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name, kind in (
        ("api", sa.Text),
        ("backend", sa.Text),
        ("finish", sa.Text),
        ("queue_ms", sa.Float),
        ("overhead_us", sa.Float),
        ("trace", sa.Text),
    ):
        op.add_column("exchanges", sa.Column(name, kind))
