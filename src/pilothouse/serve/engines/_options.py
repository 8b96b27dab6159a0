"""What may be said of an engine under `serve.options`, and does it have what the project needs?

Every engine's file shows its options as data, so that `pilothouse engines NAME` can list them and one check reads them:

    OPTIONS = (
        Option("threads", int, None, "Threads that generate; default: every core this process may use.", low=1),
        Option("kv_type", str, "f16", "Type of the KV cache.", choices=("f16", "q8_0")),
    )

and its `launch` begins with

    check_needs("name", self.capabilities, spec)
    given = read_options("name", spec.options, OPTIONS)  # every option by name, defaults filled in
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.serve.base import EngineSpec

WHERE = "pilothouse.yaml: serve.options"
_WORD: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Option:
    """One option. kind: int, float, str, bool, list (of texts) or dict. default None: the meaning says what happens.

    choices: the only values (of a list: of its items). low: the smallest number allowed.
    """

    name: str
    kind: Any
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    low: float | None = None

    @property
    def type_name(self) -> str:
        """The type in a user's words."""
        return str(_WORD[self.kind])


def read_options(engine: str, given: Mapping[str, Any], known: Sequence[Option]) -> dict[str, Any]:
    """Every known option by name, with the default where none is given. UserError for an unknown name or wrong type."""
    names = [option.name for option in known]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            has = f"It has: {', '.join(sorted(names))}." if names else "It has none."
            raise UserError(f"engine {engine} has no option {name!r}", where=WHERE, fix=hint + has)
    return {o.name: _value(engine, o, given[o.name]) if given.get(o.name) is not None else o.default for o in known}


def _value(engine: str, option: Option, value: Any) -> Any:
    where = f"{WHERE}.{option.name}"
    if option.kind is float and type(value) is int:
        value = float(value)
    items = value if option.kind is list else [value]
    if type(value) is not option.kind or (option.kind is list and not all(isinstance(item, str) for item in items)):
        what = f"engine {engine} needs option {option.name!r} as {option.type_name}, got {value!r}"
        raise UserError(what, where=where, fix=option.meaning)
    wrong = [item for item in items if option.choices and item not in option.choices]
    if wrong:
        raise UserError(f"{wrong[0]!r} is not possible", where=where, fix=f"One of: {', '.join(option.choices)}.")
    if option.low is not None and value < option.low:
        raise UserError(f"{value!r} is too small", where=where, fix=f"{option.low:g} or more.")
    return value


def check_needs(engine: str, capabilities: frozenset[str], spec: EngineSpec) -> None:
    """UserError at the start for what the project needs and the engine has not: nothing is dropped in silence."""
    if spec.adapters and "adapters" not in capabilities:
        names = ", ".join(name for name, _ in spec.adapters)
        what = f"engine {engine} cannot load adapters ({names})"
        fix = "Merge the adapter into the model, load it there, or serve with an engine that can: pilothouse engines."
        raise UserError(what, where="pilothouse.yaml: serve.engine", fix=fix)
    lacks = sorted(spec.needs - capabilities)
    if lacks:
        words = ", ".join(word.replace("_", " ") for word in lacks)
        what = f"engine {engine} cannot do what this project needs: {words}"
        fix = "Choose another engine (pilothouse engines shows what each can do), or drop the need."
        raise UserError(what, where="pilothouse.yaml: serve.engine", fix=fix)
