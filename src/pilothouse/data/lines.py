"""How files of rows are read: line by line, UTF-8 checked, with the line's number in every error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message
from pilothouse.data.base import Bad, Loaded, Reject, Source, build


def text(source: Source) -> Iterator[tuple[int, str]]:
    """(line number, line with its end) of a UTF-8 file; a byte-order mark at the start is dropped."""
    try:
        with source.path.open("rb") as f:
            for number, line in enumerate(f, 1):
                raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                try:
                    yield number, raw.decode()
                except UnicodeDecodeError as e:
                    raise UserError(
                        f"not UTF-8 text (byte {e.start + 1} of the line)",
                        where=f"{source.shown}:{number}",
                        fix="Save the file as UTF-8.",
                    ) from None
    except FileNotFoundError:
        raise UserError("no such file", where=source.shown) from None
    except OSError as e:
        raise UserError(f"cannot be read ({e.strerror})", where=source.shown) from None


def objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON-lines file; empty lines are passed over."""
    for number, line in text(source):
        if not line.strip():
            continue
        where = f"{source.shown}:{number}"
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as e:
            raise UserError(f"not valid JSON: {e}", where=where, fix="Each line must be one JSON object.") from None
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise UserError(f"a {kind} where an object was due", where=where, fix="Each line must be one JSON object.")
        yield number, value


def string(record: dict[str, Any], field: str, *, default: str | None = None) -> str:
    """The string at `field`; missing or null gives `default`, and without one is Bad."""
    value = record.get(field)
    if value is None:
        if default is None:
            raise Bad(field, "missing field")
        return default
    if not isinstance(value, str):
        raise Bad(field, "not a string", f"it is {_kind(value)}")
    return value


def label(record: dict[str, Any], field: str) -> str:
    """An id or group: a string or a whole number, '' when missing."""
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return string(record, field, default="")


def tags(record: dict[str, Any]) -> tuple[str, ...]:
    """The optional list of strings at `tags`."""
    value = record.get("tags")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(t, str) for t in value):
        raise Bad("tags", "not a list of strings", f"it is {_kind(value)}")
    return tuple(value)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a string"}
    return names.get(type(value), "null")


def rows(source: Source, turns: Callable[[dict[str, Any]], list[Message]], *, field: str) -> Iterator[Loaded | Reject]:
    """Each line's row by what `turns` reads of its object, with its id, group and tags; or why it is none."""
    for line, record in objects(source):
        try:
            row = build(
                turns(record), field=field, id=label(record, "id"), group=label(record, "group"), tags=tags(record)
            )
        except Bad as e:
            yield e.at(source, line)
        else:
            yield Loaded(line, row)
