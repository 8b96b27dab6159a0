"""Numbered changes of the schema, run by alembic."""
