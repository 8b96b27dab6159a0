"""Every command that the documentation shows runs, on a project that was really shipped."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pilothouse.serve.ports import free_port
from tests.docs.blocks import Section, sections
from tests.docs.script import script
from tests.docs.test_serving_pages import PAGES, merge
from tests.e2e.conftest import BIN, REPO, Shipped, environment

DOCS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
TYPED = [s for page in PAGES for s in sections(page) if s.of("sh") or s.of("python")]


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


@pytest.mark.model
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("section", TYPED, ids=[f"{s.page} {s.title}" for s in TYPED])
def test_what_the_pages_about_serving_tell_to_type_works(section: Section, shipped: Shipped, tmp_path: Path) -> None:
    """Settings, commands, curls and Python of one section, in order, against the release that it serves."""
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")
    port = free_port()
    project = shutil.copytree(shipped.cwd / "examples" / "airline", tmp_path / "examples" / "airline")
    for text in [*section.of("yaml", "served"), f"serve: {{port: {port}}}"]:
        merge(project / "pilothouse.yaml", text)
    # The turn is shortened, so its gates may have too little evidence to let it pass.
    serve = "pilothouse serve" if shipped.code == 0 else "pilothouse serve --unshipped"
    before = environment(shipped.cwd)
    path = f"{Path(BIN).parent}:{before['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-xc", script(section, serve, port)],
            cwd=tmp_path,
            env={**before, "PATH": path},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    finally:  # a key that is left would lock other tests out of the store's gateways
        for key in json.loads(shipped.run("keys", "list", "--json").stdout):
            shipped.run("keys", "revoke", key["name"])
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip()
