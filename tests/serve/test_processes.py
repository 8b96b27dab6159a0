"""The supervisor against a small engine process: readiness, restarts, giving up, stopping, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core.client import run
from pilothouse.core.errors import UserError
from pilothouse.serve import orphans
from pilothouse.serve import supervisor as supervisor_module
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, as_it_is, no_adapter_call
from pilothouse.serve.supervisor import Supervisor
from tests.serve.scripted import Wire, whole

MODULE = "tests.serve.small_engine"
REPO = Path(__file__).resolve().parents[2]


@dataclass
class Small:
    """An engine that answers 'x' (or ends at once, or ignores SIGTERM)."""

    mode: str = "serve"
    launches: int = 0
    capabilities: frozenset[str] = field(default_factory=frozenset)
    format: Format = "none"
    adapter_call = staticmethod(no_adapter_call)
    rewrite = staticmethod(as_it_is)

    def can(self, spec: EngineSpec) -> frozenset[str]:
        return self.capabilities

    def check(self) -> Check:
        return Check("1", True)

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        self.launches += 1
        path = f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        argv = (sys.executable, "-m", MODULE, str(port), self.mode)
        return Launch(argv, f"http://127.0.0.1:{port}", {"PYTHONPATH": path})

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        return {}

    def gauges(self, metrics: str) -> Gauges:
        return Gauges()

    def reason(self, log: str) -> str:
        return log.strip().splitlines()[-1] if log.strip() else ""


def made(folder: Path, engine: Small) -> tuple[Supervisor, list[str]]:
    said: list[str] = []
    return Supervisor(engine, EngineSpec(Path("m"), "m"), folder, said.append), said


async def until(done: Any, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.02)


def test_ready_only_after_a_real_answer_and_a_clean_stop(tmp_path: Path) -> None:
    async def check() -> None:
        s, _ = made(tmp_path / "e", Small("slow-start"))
        await s.start()
        assert s.ready.is_set() and s.pid and "answered" in (tmp_path / "e" / "engine.log").read_text()
        pid = s.pid
        await s.stop(5)
        assert not s.ready.is_set() and s.pid is None and not Path(f"/proc/{pid}").exists()
        assert not list((tmp_path / "e").glob("*.pid"))
        assert "SIGTERM" in (tmp_path / "e" / "engine.log").read_text()

    run(check())


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def check() -> None:
        s, _ = made(tmp_path, Small("die"))
        with pytest.raises(UserError, match=r"ended while starting \(exit code 3\): no model here"):
            await s.start()
        assert s.pid is None and not list(tmp_path.glob("*.pid"))

    run(check())


def test_a_killed_engine_is_started_again_on_a_port_of_its_own(tmp_path: Path) -> None:
    async def check() -> None:
        s, said = made(tmp_path, Small())
        await s.start()
        first, url = s.pid, s.url
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: not s.ready.is_set())
        assert "SIGKILL" in s.failure
        await until(lambda: s.ready.is_set())
        assert s.restarts == 1 and s.pid not in (None, first) and s.failure == "" and s.url != url
        assert any("SIGKILL" in line for line in said) and any("answers again" in line for line in said)
        await s.stop(5)

    run(check())


def test_an_engine_that_only_dies_is_given_up_with_growing_pauses(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", 0.01)

    async def check() -> None:
        engine = Small()
        s, said = made(tmp_path, engine)
        await s.start()
        engine.mode = "die"
        assert s.pid
        os.kill(s.pid, signal.SIGKILL)
        await until(lambda: any("given up" in line for line in said))
        pauses = [float(line.rpartition(" in ")[2].split()[0]) for line in said if "starting it again" in line]
        assert pauses == sorted(pauses) and pauses[-1] > pauses[0] and len(pauses) == supervisor_module._QUICK_DEATHS
        assert not s.ready.is_set() and "no model here" in s.failure
        await s.stop(1)

    run(check())


def test_an_engine_that_ignores_sigterm_is_killed_after_the_drain_deadline(tmp_path: Path) -> None:
    async def check() -> None:
        s, _ = made(tmp_path, Small("stubborn"))
        await s.start()
        pid, began = s.pid, time.monotonic()
        await s.stop(0.5)
        assert 0.4 < time.monotonic() - began < 3 and not Path(f"/proc/{pid}").exists()

    run(check())


def test_a_service_elsewhere_needs_no_process_and_an_absent_one_is_said_soon(tmp_path: Path, monkeypatch: Any) -> None:
    from pilothouse.serve.engines import remote

    monkeypatch.setattr(supervisor_module, "REMOTE_TIMEOUT_S", 0.3)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        await Wire(reader, writer).json(whole("x"))
        writer.close()

    async def check() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        spec = EngineSpec(Path(), "m", options={"url": f"http://127.0.0.1:{port}/team/v1"})
        s = Supervisor(remote.create(), spec, tmp_path, lambda _: None)
        await s.start()
        assert s.ready.is_set() and s.pid is None and seen[0].startswith(b"POST /team/v1/chat/completions")
        await s.stop(1)
        server.close()
        absent = Supervisor(remote.create(), spec, tmp_path, lambda _: None)
        with pytest.raises(UserError, match="does not answer"):
            await absent.start()

    seen: list[bytes] = []
    run(check())


OWNER = """
import asyncio, sys
from pathlib import Path
from tests.serve.test_processes import Small, made
async def main():
    s, _ = made(Path(sys.argv[1]), Small(sys.argv[2]))
    await s.start()
    print(s.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def owned(tmp_path: Path, mode: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """A Pilothouse in a process of its own with an engine: the process, the engine's id, its child's id."""
    environment = {**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), mode], stdout=subprocess.PIPE, env=environment
    )
    assert owner.stdout
    pid = int(owner.stdout.readline())
    child = next(line for line in (tmp_path / "engine.log").read_text().splitlines() if line.startswith("child "))
    return owner, pid, int(child.split()[1])


def test_an_engine_and_what_it_started_end_with_a_pilothouse_that_is_killed(tmp_path: Path) -> None:
    owner, pid, child = owned(tmp_path, "family")
    with owner:
        assert orphans.end(tmp_path) == [] and _alive(pid) and _alive(child)  # their owner lives
        owner.kill()
        owner.wait()
        _gone(pid)
        _gone(child)
        assert orphans.end(tmp_path) == [] and not list(tmp_path.glob("*.pid"))


def test_what_outlived_pilothouse_and_warden_is_ended_by_the_next_start(tmp_path: Path) -> None:
    owner, pid, child = owned(tmp_path, "family")
    with owner:
        warden = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(owner.pid, signal.SIGSTOP)  # it must not clean up first
        os.kill(warden, signal.SIGKILL)
        owner.kill()
        owner.wait()
        _gone(pid)  # Linux ends it with its warden; what it started goes on
        assert _alive(child)
        assert orphans.end(tmp_path) == [f"engine process {pid} was left behind: ended"]
        _gone(child)
        assert not list(tmp_path.glob("*.pid")) and orphans.end(tmp_path) == []


def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", MODULE]) as innocent:
        note = {"pid": innocent.pid, "started": 1, "owner": 2**22 + 1, "owner_started": 5}
        (tmp_path / "engine-1-a.pid").write_bytes(msgspec.json.encode(note))
        (tmp_path / "engine-2-b.pid").write_text("{")
        assert orphans.end(tmp_path) == [] and innocent.poll() is None and not list(tmp_path.iterdir())
        innocent.kill()


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
