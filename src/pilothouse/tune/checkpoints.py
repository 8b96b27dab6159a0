"""Which checkpoint can training go on from? Only one that was written whole; a half-written one is removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

MARK = "complete"


def seal(folder: Path) -> None:
    """Say that the checkpoint is whole: its files are flushed to disk first, the mark is written last."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as f:
                os.fsync(f.fileno())
    mark = folder / MARK
    with mark.open("w") as f:
        f.write("whole\n")
        f.flush()
        os.fsync(f.fileno())


def newest(root: Path) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint, or None. Half-written ones are removed."""
    whole = []
    for folder in root.glob("checkpoint-*"):
        step = folder.name.rpartition("-")[2]
        if (folder / MARK).exists() and step.isdigit():
            whole.append((int(step), folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return max(whole, default=None)


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the curve: a training step's loss, tokens and seconds, or the dev rows' losses after it."""

    step: int
    loss: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    dev: tuple[float, ...] = ()


class Curve:
    """Losses by step, appended to a file line by line, so that nothing is lost with the process."""

    def __init__(self, path: Path, upto: int) -> None:
        """Read what an earlier attempt left, up to the step that training goes on from."""
        self.path = path
        self.train: dict[int, Step] = {}
        self.dev: dict[int, Step] = {}
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    self._keep(msgspec.json.decode(line, type=Step), upto)
                except msgspec.DecodeError:
                    continue  # torn by a kill in mid-write; the step is done again
            path.write_bytes(b"".join(msgspec.json.encode(s) + b"\n" for s in self.steps()))

    def add(self, step: Step) -> None:
        """Keep one step."""
        self._keep(step, step.step)
        with self.path.open("ab") as f:
            f.write(msgspec.json.encode(step) + b"\n")

    def steps(self) -> list[Step]:
        """All of them, by step."""
        return sorted([*self.train.values(), *self.dev.values()], key=lambda s: (s.step, bool(s.dev)))

    def _keep(self, step: Step, upto: int) -> None:
        if step.step <= upto:
            (self.dev if step.dev else self.train)[step.step] = step
