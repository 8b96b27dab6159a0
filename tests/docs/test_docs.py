"""The documentation is true: its tree, its links, its commands."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from pilothouse.core import registry
from pilothouse.core.project.schema import Project

REPO = Path(__file__).resolve().parents[2]
DOCS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def test_the_readme_tree_names_every_package_and_nothing_else() -> None:
    block = re.search(r"```\nsrc/pilothouse/\n(.*?)```", (REPO / "README.md").read_text(), re.S)
    assert block is not None
    named = re.findall(r"^  (\w+)/", block[1], re.M)
    there = [p.name for p in (REPO / "src/pilothouse").iterdir() if p.is_dir() and not p.name.startswith("__")]
    assert sorted(named) == sorted(there)


def test_every_stage_of_the_readme_is_a_command_and_links_lead_somewhere() -> None:
    for doc in DOCS:
        text = doc.read_text()
        for name in re.findall(r"`pilothouse (\w+)", text):
            assert (REPO / f"src/pilothouse/ui/cli/commands/{name}.py").exists(), (doc.name, name)
        for link in re.findall(r"\]\(([^)#]+?)\)", text):
            if not link.startswith("http"):
                assert (doc.parent / link).exists(), (doc.name, link)


def test_every_setting_is_read_by_the_code() -> None:
    """A key that is validated, documented and then read by nothing would be a lie."""
    code = "\n".join(p.read_text() for p in (REPO / "src").rglob("*.py") if p.name != "schema.py")
    todo, seen = [Project], set()
    while todo:
        section = todo.pop()
        for name, field in section.model_fields.items():
            assert re.search(rf"\.{name}\b|[\"']{name}[\"']", code), f"nothing reads {section.__name__}.{name}"
            todo += [s for s in _sections(field.annotation) if s not in seen and not seen.add(s)]  # type: ignore[func-returns-value]


def _sections(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for a in getattr(annotation, "__args__", ()) for s in _sections(a)]


def test_every_member_is_documented() -> None:
    text = (REPO / "docs/members.md").read_text()
    for kind in ("sources", "loaders", "methods", "metrics", "probes", "detectors", "engines", "arrivals"):
        for name in registry.modules(kind):
            assert f"`{name}`" in text, f"docs/members.md does not name the {kind[:-1]} {name}"
