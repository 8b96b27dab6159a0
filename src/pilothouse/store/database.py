"""Open the database: SQLite in WAL mode, migrated to the newest schema before anyone reads it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from pilothouse.core.errors import UserError

HEAD = "0003"
_MIGRATIONS = Path(__file__).parent / "migrations"


def connect(url: str) -> sa.Engine:
    """An engine on an up-to-date database. A database from a newer Pilothouse is refused, untouched."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_settings)
    try:
        at = _revision(engine)
    except sa.exc.DatabaseError as e:
        raise UserError(
            f"the database cannot be read ({e.orig})", where=url, fix="Restore it from a backup, or move it away."
        ) from None
    if at is not None and at > HEAD:
        raise UserError(
            f"the store was written by a newer Pilothouse (schema {at}; this one knows {HEAD})",
            where=url,
            fix="Upgrade Pilothouse, or set PILOTHOUSE_HOME to another store.",
        )
    if at != HEAD:
        migrate(engine)
    return engine


def migrate(engine: sa.Engine, to: str = "head") -> None:
    """Run the numbered migrations, each in a transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as c:
        if not sa.inspect(c).has_table("alembic_version"):
            return None
        return c.execute(sa.text("select version_num from alembic_version")).scalar()


def _sqlite_settings(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
