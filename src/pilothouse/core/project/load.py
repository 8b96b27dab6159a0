"""Read `pilothouse.yaml`: one error line that names file, line, key, bad value and the nearest valid key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Project

FILE = "pilothouse.yaml"


def load_project(path: Path) -> Project:
    """The project in `path` (its folder, or the YAML file itself). Every mistake is a UserError of one line."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"there is no {FILE} here" if path.is_dir() else "no such file or folder",
            where=str(path),
            fix="Make one with: pilothouse init FOLDER",
        )
    try:
        raw = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise UserError(f"not valid YAML: {e.problem or e.context}", where=where) from None
    except UnicodeDecodeError as e:
        raise UserError(f"not UTF-8 text (byte {e.start})", where=str(file)) from None
    if not isinstance(raw, dict):
        raise UserError("the file must be a mapping of keys", where=f"{file}:1", fix="Start with: project: NAME")
    try:
        project = Project.model_validate(_plain(raw))
    except ValidationError as e:
        raise _explain(e, raw, file) from None
    return _with_prompt(project.model_copy(update={"folder": file.resolve().parent}), raw, file)


def _with_prompt(project: Project, raw: Any, file: Path) -> Project:
    if not project.system_prompt.startswith("file:"):
        return project
    path = project.folder / project.system_prompt.removeprefix("file:")
    if not path.is_file():
        where = f"{file}:{_line(raw, ('system_prompt',))}: system_prompt"
        raise UserError(f"no such file: {str(path)!r}", where=where)
    return project.model_copy(update={"system_prompt": path.read_text(encoding="utf-8").strip()})


def _plain(value: Any) -> Any:
    """ruamel's round-trip containers as plain data, so that pydantic sees only built-in types."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _explain(error: ValidationError, raw: Any, file: Path) -> UserError:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    # A rule over the whole file begins with the key that it is about.
    loc = tuple(first["loc"]) or tuple(word for word in message.split()[:1] if word in raw)
    key = ".".join(str(part) for part in loc) or "(whole file)"
    where = f"{file}:{_line(raw, loc)}: {key}"
    more = error.error_count() - 1
    tail = f"({more} more after this one.)" if more else ""
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _keys_at(loc[:-1]), n=1)
        known = ", ".join(_keys_at(loc[:-1]))
        hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {known}."
        return UserError(f"unknown key {str(loc[-1])!r}", where=where, fix=f"{hint} {tail}")
    if first["type"] == "missing":
        return UserError("this key is required", where=where, fix=tail)
    bad = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
    return UserError(f"{message[0].lower()}{message[1:]}{bad}", where=where, fix=tail)


def _line(raw: Any, loc: tuple[Any, ...]) -> int:
    """1-based line of the deepest part of `loc` that the file has."""
    line, node = 1, raw
    for part in loc:
        lc = getattr(node, "lc", None)
        try:
            line = (lc.key(part) if isinstance(node, dict) else lc.item(part))[0] + 1  # type: ignore[union-attr]
            node = node[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line


def _keys_at(loc: tuple[Any, ...]) -> list[str]:
    """The valid keys of the section at `loc`."""
    model: Any = Project
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part))
        model = _model_in(field.annotation) if field else None
        if model is None:
            return []
    return [name for name, f in model.model_fields.items() if not f.exclude]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None
