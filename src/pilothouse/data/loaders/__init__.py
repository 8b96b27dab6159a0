"""Loaders of rows: one file a format; `create(**options)` returns one."""
