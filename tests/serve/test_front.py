"""The gateway's own processes: one port, shared limits and figures, replaced when they die, told anew in mid-stream."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.digest import of_secret
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Guard, Rule
from pilothouse.serve.deployment import Route
from pilothouse.serve.front import Front
from pilothouse.serve.gateway import control
from pilothouse.serve.gateway.limits import Key
from tests.serve.scripted import Answer, Engine, Kept, Wire, ask, parse, run, streamed, whole

CHAT = "/v1/chat/completions"
BEARER = "Authorization: Bearer s3\r\n"
ROUTES: Mapping[str, Route] = {"desk": Route("desk", "", "r1")}


async def script(request: dict[str, Any], wire: Wire) -> None:
    said = request["messages"][-1]["content"]
    if said == "long":
        await wire.stream(streamed(["word "] * 20), pause=0.05)
    elif request.get("stream"):
        await wire.stream(streamed([said]))
    else:
        await wire.json(whole(said))


class Scene:
    """A front with its engine."""

    def __init__(self, front: Front, engine: Engine, kept: Kept, port: int, said: list[str]) -> None:
        self.front, self.engine, self.kept, self.port, self.said = front, engine, kept, port, said

    async def raw(self, data: bytes, tls: ssl.SSLContext | None = None) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        writer.write(data)
        try:
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()

    async def post(
        self, body: Any, *, path: str = "/v1/chat/completions", headers: str = BEARER, **more: Any
    ) -> Answer:

        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}Content-Length: {len(content)}"
        )
        return parse(await self.raw(f"{head}\r\n\r\n".encode() + content, **more))

    async def get(self, path: str, headers: str = BEARER) -> Answer:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n"
        return parse(await self.raw(head.encode()))


def key(**limits: Any) -> Key:
    return Key("app", of_secret("s3"), 0, 5, **limits)


@asynccontextmanager
async def scene(processes: int, settings: control.Configure) -> AsyncIterator[Scene]:
    engine, kept, said = Engine(script), Kept(), list[str]()
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, backlog=1024)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    front = Front(processes, settings, said.append, records=kept)
    port = await front.start("127.0.0.1", 0, (engine.member(ROUTES),))
    try:
        yield Scene(front, engine, kept, port, said)
    finally:
        await front.stop(2)
        server.close()


async def until(done: Any, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.02)


def test_limits_figures_and_records_are_one_over_all_processes() -> None:
    async def check() -> None:
        async with scene(3, control.Configure(keys=(key(requests_per_minute=20),))) as s:
            got = await asyncio.gather(*(s.post(ask(f"q{n}")) for n in range(60)))
            assert sorted({g.status for g in got}) == [200, 429]
            passed = sum(g.status == 200 for g in got)
            assert 20 <= passed <= 21  # one more every 3 s
            await until(lambda: len(s.kept.exchanges) == passed)
            assert {e.key for e in s.kept.exchanges} == {5} and all(e.answer is None for e in s.kept.exchanges)
            for _ in range(4):  # whichever process is asked
                text = (await s.get("/metrics")).body.decode()
                assert f'pilothouse_requests_total{{model="desk",status="200"}} {float(passed)}' in text
                assert f'gen_ai_client_token_usage_total{{model="desk",type="output"}} {3.0 * passed}' in text
            used = (await s.get("/v1/usage")).json["since_start"]
            assert used["requests"] == passed and used["refused"] == 60 - passed and used["running"] == 0

    run(check())


def test_a_killed_process_is_replaced_and_its_places_are_free_again() -> None:
    async def check() -> None:
        async with scene(2, control.Configure(keys=(key(concurrency=8),))) as s:
            streams = [asyncio.ensure_future(s.post(ask("long", stream=True))) for _ in range(8)]
            await until(lambda: len(s.engine.requests) == 8)
            assert (await s.post(ask())).status == 429
            victim = s.front.pids[0]
            os.kill(victim, signal.SIGKILL)
            done = await asyncio.gather(*streams, return_exceptions=True)
            whole_ = [d for d in done if isinstance(d, Answer) and d.whole and d.text() == "word " * 20]
            assert len(whole_) < 8
            await until(lambda: len(s.front.pids) == 2 and victim not in s.front.pids and s.said)
            got = await asyncio.gather(*(s.post(ask(f"q{n}")) for n in range(8)))
            assert [g.status for g in got] == [200] * 8
            assert "starting it again" in s.said[0]

    run(check())


def test_new_settings_count_at_once_and_drop_no_stream(tmp_path: Path) -> None:
    async def check() -> None:
        async with scene(2, control.Configure(keys=(key(),))) as s:
            streams = [asyncio.ensure_future(s.post(ask("long", stream=True))) for _ in range(4)]
            await until(lambda: len(s.engine.requests) == 4)
            policy = Guard(rules=(Rule(detector="banned", options={"terms": ["refund"]}),), refusal="No.")
            renewed = Key("app", of_secret("new"), 0, 5)
            rules, folder = policy.model_dump_json().encode(), str(tmp_path)
            s.front.configure(control.Configure(keys=(renewed,), policy=rules, policy_folder=folder, keeps_text=True))
            await asyncio.sleep(0.3)
            for _ in range(4):
                assert (await s.post(ask())).status == 401
                got = await s.post(ask("a refund"), headers="Authorization: Bearer new\r\n")
                assert got.json["choices"][0]["finish_reason"] == "content_filter"
            assert [(await stream).text() for stream in streams] == ["word " * 20] * 4
            await until(lambda: len(s.kept.exchanges) >= 8)
            assert {e.guard for e in s.kept.exchanges} == {"off", "blocked"}

    run(check())


def test_an_engine_that_moves_is_followed_and_stopping_waits_for_streams() -> None:
    async def check() -> None:
        async with scene(2, control.Configure()) as s:
            s.front.update((s.engine.member(ROUTES, ready=False),))
            asking = asyncio.ensure_future(s.post(ask("back"), headers=""))
            await asyncio.sleep(0.3)
            assert not asking.done()
            s.front.update((s.engine.member(ROUTES),))
            assert (await asking).status == 200
            stream = asyncio.ensure_future(s.post(ask("long", stream=True), headers=""))
            await until(lambda: len(s.engine.requests) == 2)
            await s.front.stop(5)
            assert (await stream).text() == "word " * 20 and s.front.pids == []
            await until(lambda: len(s.kept.exchanges) == 2)

    run(check())


def test_feedback_reaches_the_owner_and_comes_back() -> None:
    async def check() -> None:
        async with scene(2, control.Configure()) as s:
            got = await s.post(ask(), headers="")
            thumb = {"exchange": got.headers["x-request-id"], "kind": "thumb", "value": "up"}
            assert (await s.post(thumb, path="/v1/feedback", headers="")).status == 200
            assert (await s.post({**thumb, "exchange": "req_0"}, path="/v1/feedback", headers="")).status == 404

    run(check())


def test_tls_is_spoken_and_a_renewed_certificate_serves_new_connections(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make a certificate with")

    def certificate(name: str) -> tuple[str, str]:
        cert, secret = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-keyout", str(secret), "-out", str(cert), "-days", "2", "-subj", f"/CN={name}"]
        subprocess.run([*argv, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        return str(cert), str(secret)

    async def check() -> None:
        (old, old_key), (new, new_key) = certificate("old"), certificate("new")
        async with scene(1, control.Configure(tls_cert=old, tls_key=old_key)) as s:
            trust = ssl.create_default_context(cafile=old)
            assert (await s.post(ask("hi"), headers="", tls=trust)).json["choices"][0]["message"]["content"] == "hi"
            assert (await s.post(ask("hi", stream=True), headers="", tls=trust)).text() == "hi"
            s.front.configure(control.Configure(tls_cert=new, tls_key=new_key))
            await asyncio.sleep(0.3)
            with pytest.raises(ssl.SSLCertVerificationError):
                await s.post(ask(), headers="", tls=trust)
            renewed = ssl.create_default_context(cafile=new)
            assert (await s.post(ask(), headers="", tls=renewed)).status == 200

    run(check())


def test_a_key_is_revoked_although_the_certificate_cannot_be_read_just_now(tmp_path: Path) -> None:
    async def check() -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("half a certificate")
        async with scene(1, control.Configure(keys=(key(),))) as s:
            assert (await s.post(ask())).status == 200
            other = Key("other", of_secret("else"), 1)
            s.front.configure(control.Configure(keys=(other,), tls_cert=str(broken)))
            await asyncio.sleep(0.3)
            assert (await s.post(ask())).status == 401

    run(check())


def test_a_port_taken_or_a_public_address_without_keys_is_one_line() -> None:
    async def check() -> None:
        async with scene(1, control.Configure()) as s:
            front = Front(1, control.Configure(), s.said.append)
            with pytest.raises(UserError, match=f"{s.port} cannot be used"):
                await front.start("127.0.0.1", s.port, ())
            assert front.pids == []
            with pytest.raises(UserError, match="needs keys"):
                await Front(1, control.Configure(), s.said.append).start("0.0.0.0", 0, (), public=True)

    run(check())
