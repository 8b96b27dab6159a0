"""A run is executed once per key, resumes in its own folder, and never hides how it ended."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.core.records import Outcome, Report
from pilothouse.store import doctor, lineage, runs
from pilothouse.store.store import Store


def _report(text: str = "done") -> Report:
    return Report("x", "X", text)


def test_the_same_key_is_run_once_and_other_settings_anew(store: Store) -> None:
    calls = []

    def step(ctx: runs.Context) -> Outcome:
        calls.append(ctx.id)
        return Outcome(_report())

    one = runs.execute(store, "x", "p", {"a": 1}, {}, step, Silent())
    again = runs.execute(store, "x", "p", {"a": 1}, {}, step, Silent())
    other = runs.execute(store, "x", "p", {"a": 2}, {}, step, Silent())
    assert one == again and other.id != one.id and len(calls) == 2
    runs.execute(store, "x", "p", {"a": 1}, {}, step, Silent(), fresh=True)
    assert len(calls) == 3


def test_other_inputs_are_another_run(store: Store) -> None:
    a, b = (store.add_asset("rows", "r", {"f": text}) for text in (b"1", b"2"))
    ids = {runs.execute(store, "x", "p", {}, {"rows": x}, lambda _: Outcome(_report()), Silent()).id for x in (a, b)}
    assert len(ids) == 2


def test_an_interrupted_run_goes_on_in_its_folder(store: Store) -> None:
    def first(ctx: runs.Context) -> Outcome:
        (ctx.folder / "half").write_text("1")
        raise KeyboardInterrupt

    def second(ctx: runs.Context) -> Outcome:
        return Outcome(_report((ctx.folder / "half").read_text()))

    with pytest.raises(KeyboardInterrupt):
        runs.execute(store, "x", "p", {}, {}, first, Silent())
    assert runs.every(store)[0].status == "interrupted"
    done = runs.execute(store, "x", "p", {}, {}, second, Silent())
    assert done.status == "done" and done.attempts == 2 and done.report is not None and done.report.summary == "1"


def test_fresh_forgets_the_folder(store: Store) -> None:
    def step(ctx: runs.Context) -> Outcome:
        seen = (ctx.folder / "mark").exists()
        (ctx.folder / "mark").touch()
        return Outcome(_report(str(seen)))

    runs.execute(store, "x", "p", {}, {}, step, Silent())
    again = runs.execute(store, "x", "p", {}, {}, step, Silent(), fresh=True)
    assert again.report is not None and again.report.summary == "False"


def test_a_failure_is_kept_with_its_reason_and_without_secrets(store: Store) -> None:
    def step(_: runs.Context) -> Outcome:
        raise RuntimeError("cannot log in with api_key=abcdefgh12345")

    with pytest.raises(RuntimeError):
        runs.execute(store, "x", "p", {}, {}, step, Silent())
    run = runs.every(store)[0]
    assert run.status == "failed" and run.error is not None and "abcdefgh" not in run.error
    assert "abcdefgh12345" not in (store.root / "runs" / run.id / "log.txt").read_text()


def test_a_full_disk_is_one_clear_line(store: Store) -> None:
    def step(_: runs.Context) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device", "/big")

    with pytest.raises(UserError, match="disk is full"):
        runs.execute(store, "x", "p", {}, {}, step, Silent())


def test_two_processes_do_not_run_the_same_key(store: Store) -> None:
    def outer(_: runs.Context) -> Outcome:
        with pytest.raises(UserError, match="going on in another process"):
            runs.execute(store, "x", "p", {}, {}, lambda _: Outcome(_report()), Silent())
        return Outcome(_report())

    assert runs.execute(store, "x", "p", {}, {}, outer, Silent()).status == "done"


def test_doctor_marks_a_killed_run_interrupted_and_it_resumes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code = f"""
import os, signal
from pathlib import Path
from pilothouse.core.progress import Silent
from pilothouse.store import runs
from pilothouse.store.store import Store
store = Store.open(Path({str(home)!r}))
runs.execute(store, "x", "p", {{}}, {{}}, lambda c: os.kill(os.getpid(), signal.SIGKILL), Silent())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store.open(home)
    assert runs.every(store)[0].status == "running"
    assert any(r.state == "cleaned" and "interrupted" in r.what for r in doctor.check(store))
    assert runs.every(store)[0].status == "interrupted"
    assert runs.execute(store, "x", "p", {}, {}, lambda _: Outcome(_report()), Silent()).attempts == 2
    store.close()


def test_lineage_walks_from_an_output_to_what_came_from_outside(store: Store) -> None:
    raw = store.add_asset("rows", "raw", {"f": b"raw"}, origin="file:raw", licence="CC0")
    mid = runs.execute(
        store,
        "data",
        "p",
        {},
        {"raw": raw},
        lambda c: Outcome(_report(), {"dataset": c.store.add_asset("dataset", "d", {"f": b"clean"})}),
        Silent(),
    )
    end = runs.execute(
        store,
        "tune",
        "p",
        {},
        {"dataset": runs.output(store, mid, "dataset")},
        lambda c: Outcome(_report(), {"adapter": c.store.add_asset("adapter", "a", {"f": b"adapter"})}),
        Silent(),
    )
    node = lineage.upstream(store, runs.output(store, end, "adapter"))
    assert node.run == end.id and node.parents[0].run == mid.id
    assert node.parents[0].parents[0].origin == "file:raw" and node.parents[0].parents[0].licence == "CC0"
    assert lineage.downstream(store, raw) == [(mid.id, "dataset", runs.output(store, mid, "dataset").digest)]


def test_a_run_records_machine_and_versions(store: Store) -> None:
    run = runs.execute(store, "x", "p", {}, {}, lambda _: Outcome(_report()), Silent())
    assert run.machine["python"].startswith("3.") and "pilothouse" in run.machine
    assert os.path.isdir(store.root / "runs" / run.id)  # noqa: PTH112
