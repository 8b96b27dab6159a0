"""Write docs/settings.md from the schema of pilothouse.yaml; `--check` fails when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pilothouse.core.project.schema import Project

TARGET = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings: every key of pilothouse.yaml

Made by `python scripts/settings_doc.py` from the schema that reads the file; `make check` keeps it true. An unknown
key, a wrong value or a missing file is one line that names file, line, key and the nearest valid key.
"""


def sections(model: type[BaseModel], title: str, seen: set[type]) -> list[str]:
    """The model's own table, then those of the sections in it."""
    doc = " ".join((model.__doc__ or "").split())
    lines = [f"\n## {title}\n", f"{doc}\n", "| key | type | default | |", "| --- | --- | --- | --- |"]
    below: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        inner = _section(field.annotation)
        kind = "section" if inner else _kind(field.annotation)
        if field.default is PydanticUndefined:
            default = "required"
        elif inner:
            default = ""
        else:
            default = f"`{field.default!r}`" if field.default not in ("", (), {}) else ""
        about = field.description or ""
        for limit in field.metadata:
            about += "".join(
                f"; {sign} {getattr(limit, k)}" for k, sign in _LIMITS if getattr(limit, k, None) is not None
            )
        lines.append(f"| `{name}` | {kind} | {default} | {about.removeprefix('; ')} |")
        if inner and inner not in seen:
            seen.add(inner)
            below.append((inner, f"{name}" if title == "The file" else f"{title}.{name}"))
    for inner, name in below:
        lines += sections(inner, name, seen)
    return lines


_LIMITS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def _kind(annotation: Any) -> str:
    text = str(annotation) if not isinstance(annotation, type) else annotation.__name__
    return text.replace("typing.", "").replace("Literal", "one of ").replace("|", "or").replace("NoneType", "None")


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for a in getattr(annotation, "__args__", ()) if (s := _section(a))), None)


def main() -> int:
    """Write, or compare with --check."""
    text = HEAD + "\n".join(sections(Project, "The file", {Project})) + "\n"
    if "--check" in sys.argv:
        if TARGET.read_text(encoding="utf-8") != text:
            print("docs/settings.md is out of date; run: python scripts/settings_doc.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
