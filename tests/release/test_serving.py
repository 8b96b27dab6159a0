"""A release with its further engines before callers: what may be down, what is said of it, and what a mistake names."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.serve.scripted import Wire, whole

from pilothouse.core.client import Job, chat_many, run
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Serve
from pilothouse.core.records import Endpoint
from pilothouse.release.serving import _certificate
from pilothouse.serve import run as run_module
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.ports import free_port
from pilothouse.serve.run import Live


class Service:
    """A tiny service that says one word, on a thread of its own."""

    def __init__(self, word: str) -> None:
        self.word, self.loop = word, uvloop.new_event_loop()
        self.port = 0

    def start(self, port: int = 0) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            await Wire(reader, writer).json(whole(self.word))
            writer.close()

        self.server = self.loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", port))
        self.port = self.server.sockets[0].getsockname()[1]
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture
def own() -> Iterator[Service]:
    made = Service("own")
    made.start()
    yield made
    made.stop()


def deployment(name: str, port: int, **more: Any) -> Deployment:
    spec = EngineSpec(Path(), "desk", options={"url": f"http://127.0.0.1:{port}"})
    return Deployment(name, "remote", spec, {"desk": Route()}, **more)


def said_by(url: str) -> str:
    (answer,) = run(chat_many(Endpoint(url, "desk"), [Job([{"role": "user", "content": "hi"}], 4)], concurrency=1))
    return answer.error or answer.text


def test_a_fallback_that_is_down_at_the_start_is_said_and_used_once_it_is_there(
    own: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_SPARE_S", 0.5), ("_AGAIN_S", 0.1)):
        monkeypatch.setattr(run_module, name, value)
    monkeypatch.setattr("pilothouse.serve.supervisor.REMOTE_TIMEOUT_S", 0.2)
    port, events = free_port(), list[str]()
    spare = deployment("spare", port, role="fallback", where="pilothouse.yaml: serve.backends.spare")
    live = Live([deployment("own", own.port), spare], tmp_path, events.append).start()
    late = Service("spare")
    try:
        url = live.gateway()
        assert said_by(url) == "own"
        assert [line for line in events if "spare (fallback) cannot be used yet" in line]
        late.start(port)
        deadline = time.monotonic() + 10
        while not live.supervisors[1].ready.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        own.stop()
        assert said_by(url) == "spare"
    finally:
        live.stop(1)
        late.stop()


def test_an_engine_that_shares_the_traffic_must_start_and_a_mistake_names_its_own_section(
    own: Service, tmp_path: Path
) -> None:
    wrong = Deployment(
        "next",
        "remote",
        EngineSpec(Path(), "desk", options={"ulr": "http://127.0.0.1:1"}),
        {"desk": Route()},
        where="pilothouse.yaml: serve.backends.next",
    )
    with pytest.raises(UserError, match=r"serve\.backends\.next\.options: engine remote has no option 'ulr'"):
        Live([deployment("own", own.port), wrong], tmp_path, lambda _: None).start()


def test_a_certificate_that_is_none_is_said_before_anything_listens(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    with pytest.raises(UserError, match=r"serve\.tls_cert: 'a\.pem' and its key cannot be used"):
        _certificate(tmp_path, Serve(tls_cert="a.pem"))
    with pytest.raises(UserError, match=r"serve\.tls_cert: no such file"):
        _certificate(tmp_path, Serve(tls_cert="b.pem"))
    assert _certificate(tmp_path, Serve()) == {"tls_cert": "", "tls_key": ""}
