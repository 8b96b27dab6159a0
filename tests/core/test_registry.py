"""A file in a registered folder is a member; wrong names get the nearest one."""

from pathlib import Path

import pytest

from pilothouse.core import registry
from pilothouse.core.errors import UserError


def test_every_kind_finds_the_files_of_its_folder() -> None:
    root = Path(registry.__file__).parent.parent
    folders = {"metrics": "evaluate/metrics", "detectors": "guard/detectors", "probes": "redteam/probes"}
    for kind, folder in folders.items():
        files = {p.stem.replace("_", "-") for p in (root / folder).glob("*.py") if not p.name.startswith("_")}
        assert files and files == set(registry.modules(kind))


def test_every_member_says_what_it_is_and_can_be_created_or_names_what_it_needs() -> None:
    for kind in ("sources", "loaders", "methods", "metrics", "probes", "detectors", "engines", "arrivals"):
        for name in registry.modules(kind):
            module = registry.module(kind, name)
            assert (module.__doc__ or "").strip(), f"{kind} {name} has no docstring"
            assert callable(module.create), f"{kind} {name} has no create()"


def test_an_unknown_member_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'json-valid'"):
        registry.module("metrics", "json-vald")
