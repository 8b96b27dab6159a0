"""The command line: fast, helpful, one line and exit code 2 for mistakes."""

from __future__ import annotations

import importlib.metadata
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

BIN = str(Path(sys.executable).parent / "pilothouse")


def run(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    full = {**os.environ, "PILOTHOUSE_HOME": str(cwd / "home"), **(env or {})}
    return subprocess.run([BIN, *args], cwd=cwd, env=full, capture_output=True, text=True, timeout=120, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line of a user's mistake: exit 2, nothing on stdout, no traceback."""
    assert done.returncode == 2, done.stderr
    assert not done.stdout and "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_help_is_fast_and_lists_every_command(tmp_path: Path) -> None:
    best = 99.0
    for _ in range(3):  # the smallest of three: CPU time still wobbles on a busy machine
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    commands = Path(__file__).parents[2] / "src/pilothouse/ui/cli/commands"
    for path in commands.glob("*.py"):
        if path.stem != "__init__":
            assert re.search(rf"^  {path.stem.replace('_', '-')} ", done.stdout, re.M), path.stem
    assert best <= 0.3, f"pilothouse --help took {best:.2f} CPU-seconds"


def test_core_installs_at_most_thirty_packages() -> None:
    seen: set[str] = set()
    todo = ["pilothouse"]
    while todo:
        name = todo.pop()
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            key = re.sub(r"[-_.]+", "-", need.name).lower()
            if key not in seen:
                seen.add(key)
                todo.append(need.name)
    assert len(seen) <= 30, sorted(seen)


@pytest.mark.parametrize("command", ["choose", "data", "tune", "ship", "serve", "up"])
def test_a_folder_without_a_project_is_one_line(tmp_path: Path, command: str) -> None:
    assert "pilothouse.yaml" in one_line(run(command, str(tmp_path), cwd=tmp_path))


def test_an_unknown_command_or_option_or_stage_is_one_line(tmp_path: Path) -> None:
    assert "'ship'" in one_line(run("shp", cwd=tmp_path))
    assert "--jsn" in one_line(run("ship", "--jsn", cwd=tmp_path))
    run("init", "demo", cwd=tmp_path)
    assert "tuen" in one_line(run("ship", "demo", "--fresh", "tuen", cwd=tmp_path))


def test_nothing_shipped_yet_is_one_line(tmp_path: Path) -> None:
    assert "no Pilothouse store" in one_line(run("show", "release", cwd=tmp_path))
    run("init", "demo", cwd=tmp_path)
    run("data", "demo", cwd=tmp_path)
    assert "no release yet" in one_line(run("show", "release", cwd=tmp_path))
    assert "has no release" in one_line(run("serve", "demo", cwd=tmp_path))


def test_init_starts_a_project_whose_data_stage_runs(tmp_path: Path) -> None:
    assert run("init", "My Desk", cwd=tmp_path).returncode == 0
    assert "already a project" in one_line(run("init", "My Desk", cwd=tmp_path))
    done = run("data", "My Desk", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["stage"] == "data" and report["measures"]


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    run("init", "demo", cwd=tmp_path)
    file = tmp_path / "demo/pilothouse.yaml"
    text = re.sub(r"source: .*", "source: file:absent.gguf", file.read_text())
    file.write_text(re.sub(r"    sha256: .*\n", "", text))
    done = run("pull", "demo", cwd=tmp_path)
    assert done.returncode == 2 and "absent.gguf" in done.stderr and "Traceback" not in done.stderr


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    run("init", "demo", cwd=tmp_path)
    (tmp_path / "wall").write_text("a file, no folder")
    done = run("data", "demo", cwd=tmp_path, env={"PILOTHOUSE_HOME": str(tmp_path / "wall" / "home")})
    assert "cannot be made" in one_line(done)


def test_lists_and_doctor_speak_json(tmp_path: Path) -> None:
    run("init", "demo", cwd=tmp_path)
    run("data", "demo", cwd=tmp_path)
    assert any(
        a["asset"].startswith("dataset:") for a in json.loads(run("list", "assets", "--json", cwd=tmp_path).stdout)
    )
    assert json.loads(run("list", "runs", "--json", cwd=tmp_path).stdout)[0]["status"] == "done"
    assert {d["name"] for d in json.loads(run("list", "detectors", "--json", cwd=tmp_path).stdout)} >= {
        "pii",
        "secrets",
    }
    remarks = json.loads(run("doctor", "--json", cwd=tmp_path).stdout)
    assert {r["state"] for r in remarks} == {"ok"}


def test_lineage_of_a_dataset_ends_at_the_file_it_came_from(tmp_path: Path) -> None:
    run("init", "demo", cwd=tmp_path)
    run("data", "demo", cwd=tmp_path)
    assets = json.loads(run("list", "assets", "--json", cwd=tmp_path).stdout)
    ref = next(a["asset"] for a in assets if a["asset"].startswith("dataset:"))
    tree = json.loads(run("lineage", ref, "--json", cwd=tmp_path).stdout)
    assert "file:rows.jsonl" in {p["origin"] for p in tree["made_of"][0]["parents"]}
    assert "no asset, release or exchange" in one_line(run("lineage", "nothing-like-it", cwd=tmp_path))
