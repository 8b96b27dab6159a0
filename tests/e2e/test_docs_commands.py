"""Every command that the documentation shows runs, on a project that was really shipped."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.e2e.conftest import REPO, Shipped

DOCS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """(file, command) of every `$ pilothouse …` line in a console block."""
    found = []
    for doc in DOCS:
        for block in re.findall(r"```console\n(.*?)```", doc.read_text(), re.S):
            found += [(doc.name, line[2:]) for line in block.splitlines() if line.startswith("$ pilothouse ")]
    return found


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_every_command_of_the_docs_runs(shipped: Shipped) -> None:
    assert len(commands()) > 10
    for doc, command in commands():
        done = shipped.run(*shlex.split(command)[1:])
        assert done.returncode == 0, f"{doc}: {command}\n{done.stderr[-1500:]}"
        assert done.stdout.strip(), f"{doc}: {command} printed nothing"
