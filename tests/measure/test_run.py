"""The stage, whole: against a server of known speed and against none. Bounds on time are generous."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pilothouse.core.client import chat
from pilothouse.core.client import run as wait
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Load, Slo
from pilothouse.core.records import Endpoint, Outcome
from pilothouse.measure import load, log
from pilothouse.measure.null_server import NullServer, Timetable
from pilothouse.measure.run import run
from pilothouse.store.runs import Context
from pilothouse.store.store import Store

PROMPTS = [[{"role": "user", "content": f"question {i}"}] for i in range(5)]
SHORT = Load(arrivals="constant", rate=20, seconds=1.5, warmup_s=0.5, max_tokens=8)
WIDE = Slo(ttft_ms=5000, tpot_ms=1000)


class Counting(Silent):
    """A progress that counts."""

    def __init__(self) -> None:
        self.n = 0

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.n += n


def stage(store: Store, endpoint: Endpoint, settings: Load = SHORT, prompts: Sequence[list[dict]] = PROMPTS) -> Outcome:
    folder = store.root / "runs" / "measure-test"
    folder.mkdir(parents=True, exist_ok=True)
    progress = Counting()
    outcome = run(
        Context("measure-test", store, folder, logging.getLogger("test"), progress), settings, WIDE, prompts, endpoint
    )
    assert progress.n == 30
    return outcome


@pytest.fixture(scope="module")
def url() -> object:
    with NullServer(Timetable(ttft_ms=60, itl_ms=10, tokens=8)) as server:
        yield server.url


def test_a_load_on_a_server_of_known_speed(store: Store, url: str) -> None:
    outcome = stage(store, Endpoint(url, "m", "sk-never-to-be-seen-1234"))
    values = {m.name: m.value for m in outcome.report.measures}
    assert values["measure.offered"] == 20
    assert values["measure.errors"] == 0
    assert values["measure.attainment"] == 1
    assert 59 < values["measure.ttft_p50"] < 1000
    assert 5 < values["measure.tpot_p50"] < 200
    assert values["measure.latency_p50"] >= values["measure.ttft_p50"]
    assert outcome.report.facts["requests"].startswith("30 offered, 30 answered; 5 distinct prompts")
    kept = outcome.outputs["events"]
    content = store.read(kept, "events.jsonl")
    assert kept.kind == "rows"
    assert content.count(b"\n") == 32
    again = log.results(log.read(store.folder(kept) / "events.jsonl"))
    assert len(again) == 30
    assert sorted(r.timing.ttft for r in again)[0] * 1e3 > 59


def test_a_server_that_is_not_there_gives_failures_not_a_crash(store: Store) -> None:
    outcome = stage(store, Endpoint("http://127.0.0.1:1", "m"))
    values = {m.name: m.value for m in outcome.report.measures}
    assert values["measure.attainment"] == 0
    assert values["measure.errors"] == 1
    assert values["measure.ttft_p50"] is None
    failures = next(t for t in outcome.report.tables if t.title == "Failures by kind")
    assert failures.rows[0][:2] == ["connect", 30]


def test_the_open_loop_does_not_wait_for_answers(url: str, tmp_path: Path) -> None:
    """Forty requests in half a second on a server that takes 130 ms each: a closed loop of one would need 5 s."""
    offsets = [i / 80 for i in range(40)]
    work = load.plan(Endpoint(url, "m"), PROMPTS, offsets, max_tokens=8, timeout_s=20, seed=1, log=tmp_path / "l")
    load.offer(work)
    found = log.read(tmp_path / "l")
    starts = [e.t_sched - found.head.zero for e in found.exchanges]
    assert starts == pytest.approx(offsets)
    overlap = sum(e.t_sched < found.exchanges[0].t_close for e in found.exchanges)
    assert overlap >= 5


def test_every_prompt_comes_once_before_any_comes_again(tmp_path: Path) -> None:
    work = load.plan(
        Endpoint("http://h", "m"), PROMPTS, [0.0] * 12, max_tokens=8, timeout_s=1, seed=1, log=tmp_path / "l"
    )
    assert sorted(work.order[:5]) == sorted(work.order[5:10]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "prompts", "says"),
    [
        (Load(seconds=3, warmup_s=3), PROMPTS, "leaves nothing"),
        (Load(seconds=3, warmup_s=1), [], "no prompt"),
        (Load(arrivals="constant", rate=0.1, seconds=3, warmup_s=1), PROMPTS, "no request falls between"),
    ],
)
def test_a_load_that_could_measure_nothing_is_refused(
    store: Store, settings: Load, prompts: list[list[dict]], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        stage(store, Endpoint("http://127.0.0.1:1", "m"), settings, prompts)


def test_the_client_process_ends_when_its_parent_is_killed(url: str, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pilothouse.core.records import Endpoint
from pilothouse.measure import load
work = load.plan(Endpoint({url!r}, "m"), [[]], [i / 10 for i in range(600)], max_tokens=8, timeout_s=9, seed=1,
                 log=Path({str(tmp_path / "l")!r}))
load.offer(work, on_done=lambda status: print(status, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"200\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 1
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while _runs(int(children[0])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(children[0]))
    with pytest.raises(ValueError, match="cut off"):
        log.read(tmp_path / "l")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_interrupting_ends_the_client(url: str, tmp_path: Path) -> None:
    offsets = [i / 10 for i in range(600)]
    work = load.plan(Endpoint(url, "m"), PROMPTS, offsets, max_tokens=8, timeout_s=9, seed=1, log=tmp_path / "l")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load.offer(work, on_done=interrupt)
    assert time.monotonic() - began < 30


def test_a_client_that_breaks_says_why(tmp_path: Path) -> None:
    work = load.plan(
        Endpoint("http://127.0.0.1:1", "m"),
        PROMPTS,
        [0.0],
        max_tokens=8,
        timeout_s=1,
        seed=1,
        log=tmp_path / "no" / "such",
    )
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "such").mkdir()  # the log cannot be written: a folder is in its place
    with pytest.raises(RuntimeError, match="load client ended with code 1: IsADirectoryError"):
        load.offer(work)


def test_the_null_server_answers_whole_and_by_a_requests_own_timetable(url: str) -> None:
    own = {"null": {"ttft_ms": 1, "itl_ms": 1, "tokens": 3}}
    whole = wait(chat(Endpoint(url, "m"), PROMPTS[0], max_tokens=1, **own))
    assert (whole.text, whole.completion_tokens, whole.error) == ("null null null ", 3, "")
    streamed = wait(chat(Endpoint(url, "m"), PROMPTS[0], max_tokens=1, stream=True, **own))
    assert (streamed.text, streamed.completion_tokens, streamed.error) == ("null null null ", 3, "")
