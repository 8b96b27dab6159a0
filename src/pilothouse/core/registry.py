"""Which members a kind has: one file in a registered folder is one member, imported only when used.

A folder (or a single module) registers under the entry-point group `pilothouse.<kind>`; ours do so in pyproject.toml
as a third party's would. A member module has a docstring (its first line describes it), `create(**options)` returning
the member, and optionally `NEEDS`: the importable libraries that `create` requires, by extra.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pilothouse.core.errors import UserError


@cache
def modules(kind: str) -> dict[str, str]:
    """Member name (dashes for underscores) → dotted module path. Nothing is imported but the folders themselves."""
    return dict(sorted(_scan(kind)))


def _scan(kind: str) -> Iterator[tuple[str, str]]:
    for point in entry_points(group=f"pilothouse.{kind}"):
        package = import_module(point.value)
        if not hasattr(package, "__path__"):
            yield point.value.rpartition(".")[2].replace("_", "-"), point.value
            continue
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                yield info.name.replace("_", "-"), f"{point.value}.{info.name}"


def module(kind: str, name: str, *, where: str = "") -> ModuleType:
    """The member's module, imported. An unknown name is a UserError that names the nearest known one."""
    known = modules(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
        raise UserError(f"no {kind.rstrip('s')} is called {name!r}", where=where, fix=hint)
    return import_module(known[name])


def create(kind: str, name: str, *, where: str = "", **options: Any) -> Any:
    """A new member; its heavy imports happen here."""
    return module(kind, name, where=where).create(**options)


def missing(kind: str, name: str) -> list[str]:
    """Libraries of the member's NEEDS that are not installed."""
    needs: dict[str, str] = getattr(module(kind, name), "NEEDS", {})
    return [library for library in needs if find_spec(library) is None]
