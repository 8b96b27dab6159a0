"""What owns engines and gateway goes on when a store, a fork, a record or a figure fails, and stops in time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from pilothouse.core.client import run
from pilothouse.serve import keyring as keyring_module
from pilothouse.serve import supervisor as supervisor_module
from pilothouse.serve.base import EngineSpec, Launch
from pilothouse.serve.gateway import control
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.shared import Shared
from pilothouse.serve.keyring import Keyring
from pilothouse.serve.recorder import StoreRecorder
from pilothouse.store import keys as stored
from pilothouse.store.store import Store
from tests.serve.scripted import ask
from tests.serve.test_front import key, scene, until
from tests.serve.test_processes import Small, made
from tests.serve.test_record import exchange, rows


def alive(pid: int) -> bool:
    """Does this process live (a zombie does not)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_only_gateway_process_is_replaced_and_what_it_held_is_free() -> None:
    async def check() -> None:
        async with scene(1, control.Configure(keys=(key(concurrency=2),))) as s:
            for _ in range(2):
                held = [asyncio.ensure_future(s.post(ask("long", stream=True))) for _ in range(2)]
                await until(lambda: s.front.memory.own.total(0, sh.IN_FLIGHT) == 2)
                victim = s.front.pids[0]
                os.kill(victim, signal.SIGKILL)
                await asyncio.gather(*held, return_exceptions=True)
                await until(lambda v=victim: s.front.pids and s.front.pids != [v])
                async with asyncio.timeout(15):
                    while True:
                        try:
                            assert (await s.post(ask())).status == 200
                            break
                        except OSError:  # it does not listen yet
                            await asyncio.sleep(0.05)
                assert s.front.memory.own.total(0, sh.IN_FLIGHT) == 0

    run(check())


def test_a_process_that_cannot_listen_when_it_is_replaced_is_tried_again() -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            async with scene(1, control.Configure(keys=(key(),))) as s:
                right = s.front._listen
                assert right is not None
                s.front._listen = control.Listen(right.host, taken.getsockname()[1], False, "", True, False)
                os.kill(s.front.pids[0], signal.SIGKILL)
                await until(lambda: any("use" in line for line in s.said))
                s.front._listen = right
                async with asyncio.timeout(20):
                    while True:
                        try:
                            assert (await s.post(ask())).status == 200
                            return
                        except OSError:
                            await asyncio.sleep(0.05)

    run(check())


def test_settings_that_cannot_be_used_drop_no_stream_and_change_nothing() -> None:
    async def check() -> None:
        async with scene(1, control.Configure(keys=(key(),))) as s:
            pids, stream = s.front.pids, asyncio.ensure_future(s.post(ask("long", stream=True)))
            await until(lambda: len(s.engine.requests) == 1)
            s.front.configure(control.Configure(keys=(key(),), policy=b"{nonsense"))
            s.front.configure(control.Configure(keys=(key(),), tls_cert="/nowhere.pem"))
            assert (await stream).text() == "word " * 20 and (await s.post(ask())).status == 200
            assert s.front.pids == pids and s.said == []

    run(check())


def test_feedback_that_cannot_be_kept_is_answered_and_said() -> None:
    async def check() -> None:
        async with scene(1, control.Configure(keys=(key(),))) as s:

            async def fails(*_: str) -> bool:
                raise sa.exc.OperationalError("insert", {}, Exception("disk full"))

            s.kept.feedback = fails  # type: ignore[method-assign]
            asked = {"exchange": "req_1", "kind": "thumb", "value": "up"}
            assert (await s.post(asked, path="/v1/feedback")).status == 404
            assert "disk full" in s.said[0]

    run(check())


@pytest.mark.parametrize("when", [0.0, 0.1, 0.4])
def test_stopping_while_a_process_is_replaced_ends_all_in_time(when: float) -> None:
    async def check() -> None:
        async with scene(2, control.Configure(keys=(key(),))) as s:
            pids = set(s.front.pids)
            os.kill(s.front.pids[0], signal.SIGKILL)
            await asyncio.sleep(when)
            pids |= set(s.front.pids)
        await until(lambda: not any(map(alive, pids | set(s.front.pids))), 5)

    began = time.monotonic()
    run(check())
    assert time.monotonic() - began < 20


@pytest.fixture
def keyring(store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(keyring_module, "_LOOK_S", 0.02)
    return Keyring(store, {})


def wait(done: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.01)
    assert done()


def test_a_budget_is_new_with_a_new_month(store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.add(store, "app", budget=5.0)
    (app,) = keyring.keys()
    memory = Shared()
    keyring.attach(memory, lambda: None)
    memory.keys.add(app.row, sh.COST, 6.0)
    memory.keys.add(app.row, sh.REQUESTS, 1.0)
    wait(lambda: stored.spent(store, app.id) == 6.0)

    def spent() -> float:
        return memory.buckets.own(app.row, sh.B_SPENT) + memory.keys.total(app.row, sh.COST)

    assert spent() == 6.0
    later = time.time() + 32 * 86_400
    monkeypatch.setattr(stored, "month", lambda _=None: time.strftime("%Y-%m-01", time.gmtime(later)))
    wait(lambda: spent() == 0.0)
    keyring.close()


def test_keys_and_usage_outlive_a_store_that_is_away(
    store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.add(store, "app")
    (app,) = keyring.keys()
    memory, changes = Shared(), []
    keyring.attach(memory, lambda: changes.append(keyring.keys()))
    add, failed = stored.add_usage, []

    def away(*_: Any) -> None:
        failed.append(1)
        raise sa.exc.OperationalError("insert", {}, Exception("database is locked"))

    monkeypatch.setattr(stored, "add_usage", away)
    memory.keys.add(app.row, sh.REQUESTS, 3.0)
    memory.keys.add(app.row, sh.TOKENS_OUT, 30.0)
    wait(lambda: len(failed) > 2)
    monkeypatch.setattr(stored, "add_usage", add)
    wait(lambda: app.id in stored.usage(store))
    assert (stored.usage(store)[app.id].requests, stored.usage(store)[app.id].tokens_out) == (3, 30)
    stored.add(store, "other")
    wait(lambda: bool(changes))
    assert [k.name for k in changes[-1]] == ["app", "other"]
    keyring.close()


def test_one_record_that_cannot_be_written_takes_no_other_with_it(store: Store) -> None:
    recorder = StoreRecorder(store, record_text=True)
    odd: Any = {"not": "a text"}
    with recorder._writing:  # all of them in one batch
        for n in range(5):
            recorder.record(exchange(n))
        recorder.record(replace(exchange(5), answer="\ud800"))
        recorder.record(replace(exchange(6), finish=odd))
        recorder.record(replace(exchange(7), latency_ms=odd))
        recorder.record(exchange(8))
    wait(lambda: len(rows(store)) == 6)
    recorder.record(exchange(9))
    recorder.close()
    assert recorder.dropped == 3 and len(rows(store)) == 7


def test_an_engine_is_stopped_although_what_watches_it_has_failed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(supervisor_module, "_SCRAPE_S", 0.02)

    async def figures(_: Any) -> str:
        return "nonsense"

    class Odd(Small):
        def gauges(self, metrics: str) -> Any:
            raise RuntimeError(metrics)

    monkeypatch.setattr(supervisor_module.Supervisor, "_figures", figures)

    async def check() -> None:
        supervisor, _ = made(tmp_path, Odd())
        await supervisor.start()
        pid = supervisor.pid
        await asyncio.sleep(0.2)
        await supervisor.stop(2)
        assert pid is not None and not alive(pid) and supervisor.pid is None

    run(check())


def test_an_engine_is_started_again_although_no_process_was_to_be_had_at_first(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", 0.05)
    spawn, fails = asyncio.create_subprocess_exec, 0

    async def short(*args: Any, **more: Any) -> Any:
        nonlocal fails
        if fails:
            fails -= 1
            raise OSError(11, "Resource temporarily unavailable")
        return await spawn(*args, **more)

    async def check() -> None:
        nonlocal fails
        supervisor, said = made(tmp_path, Small())
        await supervisor.start()
        monkeypatch.setattr(asyncio, "create_subprocess_exec", short)
        fails = 2
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        assert supervisor.ready.is_set() and any("answers again" in line for line in said)
        await supervisor.stop(2)

    run(check())


@pytest.mark.parametrize("when", [0.0, 0.02, 0.1, 0.2, 0.4])
def test_stopping_while_an_engine_restarts_leaves_no_process(tmp_path: Path, monkeypatch: Any, when: float) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_S", 0.01)

    class Slow(Small):
        def launch(self, spec: EngineSpec, port: int) -> Launch:
            self.mode = "slow-start" if self.launches else "serve"
            ports.append(port)
            return super().launch(spec, port)

    ports: list[int] = []

    def running() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and alive(int(entry.name)):
                line = (entry / "cmdline").read_bytes().split(b"\0") if (entry / "cmdline").exists() else []
                found += [entry.name for port in ports if str(port).encode() in line]
        return found

    async def check() -> None:
        supervisor, _ = made(tmp_path, Slow())
        await supervisor.start()
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await asyncio.sleep(when)
        async with asyncio.timeout(10):
            await supervisor.stop(1)
        await until(lambda: not running(), 5)
        assert not list(tmp_path.glob("engine-*.pid"))

    run(check())
