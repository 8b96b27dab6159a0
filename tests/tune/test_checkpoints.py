"""Half-written checkpoints and torn lines are never gone on from."""

from __future__ import annotations

from pathlib import Path

from pilothouse.tune.checkpoints import Curve, Step, newest, seal


def test_the_newest_whole_checkpoint_wins_and_half_written_ones_go(tmp_path: Path) -> None:
    for step in (3, 6, 12, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
        if step != 12:
            seal(folder)
    assert newest(tmp_path) == (9, tmp_path / "checkpoint-9")
    assert not (tmp_path / "checkpoint-12").exists()


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    assert newest(tmp_path) is None


def test_the_curve_forgets_steps_that_are_done_again_and_survives_a_torn_line(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "c.jsonl", 0)
    for i in range(1, 6):
        curve.add(Step(i, loss=float(i)))
    curve.add(Step(3, dev=(0.5, 0.7)))
    with (tmp_path / "c.jsonl").open("ab") as f:
        f.write(b'{"step": 4, "lo')
    again = Curve(tmp_path / "c.jsonl", 3)
    assert [(s.step, s.loss, s.dev) for s in again.steps()] == [
        (1, 1.0, ()), (2, 2.0, ()), (3, 3.0, ()), (3, None, (0.5, 0.7)),
    ]  # fmt: skip
    again.add(Step(4, loss=9.0))
    assert Curve(tmp_path / "c.jsonl", 9).train[4].loss == 9.0
