"""Has a request the shape of its form? The shapes are msgspec structs: checked in C, and the same structs become the
schemas of /openapi.json, so what is documented is what is checked.

A shape names the fields whose type we know; further fields (an engine's own) are passed over here and passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from pilothouse.serve.gateway.errors import ApiError

T = TypeVar("T")

Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""How many tokens an answer may have. The upper end is what engines hold in 32 bits."""
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Answers = Annotated[int, msgspec.Meta(ge=1, le=16)]
Alternatives = Annotated[int, msgspec.Meta(ge=0, le=20)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Stops = str | Annotated[list[str], msgspec.Meta(max_length=4)] | None


class StreamOptions(msgspec.Struct):
    """How to stream."""

    include_usage: bool | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """What chat and the older completions take alike."""

    model: Name
    n: Answers | None = None
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stops = None
    seed: Seed | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def convert(value: Any, shape: type[T], where: str = "") -> T:
    """The value in its shape; ApiError(400) names the field that does not fit. `where`: what `value` itself is."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as e:
        if "got `float`" in str(e) and whole_numbers(value):
            return convert(value, shape, where)
        raise invalid(*_readable(str(e), where)) from None
    except RecursionError:
        raise invalid(where, "it is nested too deeply") from None


def whole_numbers(value: Any) -> bool:
    """Write 5.0 as 5 everywhere below: to JSON they are one number, to engines not. Whether there was any."""
    found, open_ = False, [value]
    while open_:
        holder = open_.pop()
        for key, inner in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(inner, dict | list):
                open_.append(inner)
            elif isinstance(inner, float) and inner.is_integer():
                holder[key], found = int(inner), True
    return found


def invalid(field: str, why: str) -> ApiError:
    """What a request gets whose field ('': the whole body) is not what it must be."""
    return ApiError(400, "invalid_request", f"{field or 'the body'}: {why}", param=field or None)


def unsupported(field: str, why: str) -> ApiError:
    """A field of the form that is well-formed and still cannot be done here."""
    return ApiError(400, "unsupported_value", f"{field}: {why}", param=field)


def needs(asked: Mapping[str, Any], field: str, other: str) -> None:
    """`field` only says something when `other` is true; alone it would be dropped in silence, so it is refused."""
    if asked.get(field) is not None and asked.get(other) is not True:
        raise invalid(field, f"it needs {other}: true")


def needs_schema(field: str, other: str) -> dict[str, Any]:
    """The same rule for the schema."""
    without = {"properties": {field: {"type": "null"}}}
    return {"anyOf": [without, {"properties": {other: {"const": True}}, "required": [other]}]}


def foreign(asked: Mapping[str, Any], fields: Iterable[str], path: str) -> None:
    """Refuse fields of the chat form in another: passed on they would write over what this form's own fields say."""
    for field in fields:
        if field in asked:
            raise invalid(field, f"it is no field of {path}")


def foreign_schema(fields: Iterable[str]) -> dict[str, Any]:
    """The same rule for the schema."""
    return {"properties": dict.fromkeys(fields, False)}


def further(asked: Mapping[str, Any], shape: type[msgspec.Struct]) -> dict[str, Any]:
    """What a request holds besides the fields of its shape: an engine's own, passed on as it is."""
    known = shape.__struct_encode_fields__
    return {name: value for name, value in asked.items() if name not in known}


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _readable(error: str, where: str) -> tuple[str, str]:
    """'Expected `int`, got `str` - at `$.n`' → the field and what is wrong with it."""
    what, _, path = error.partition(" - at ")
    path = path.strip("`").removeprefix("$").removeprefix(".")
    dot = "" if path.startswith("[") or not (where and path) else "."
    return f"{where}{dot}{path}", f"{what[0].lower()}{what[1:]}"
