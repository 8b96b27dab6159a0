"""Who is let in: keys, the console behind them, web pages in a local browser, and binding beyond loopback."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import UserError
from pilothouse.serve.gateway.auth import plain_keys
from pilothouse.serve.gateway.gateway import Gateway
from pilothouse.serve.gateway.routing.fleet import Fleet
from pilothouse.serve.gateway.settings import Settings
from pilothouse.serve.gateway.shared import Shared
from tests.serve.scripted import Wire, ask, front, run, whole

KEYS = {"app": "k-one", "other": "k-zwei-ü"}


async def hello(_: dict[str, Any], wire: Wire) -> None:
    await wire.json(whole("Hello"))


def test_a_key_is_needed_and_names_the_caller() -> None:
    async def check() -> None:
        async with front(hello, keys=KEYS) as f:
            for header in (
                "",
                "Authorization: Bearer \r\n",
                "Authorization: Bearer k-on\r\n",
                "Authorization: k-one\r\n",
            ):
                for got in (await f.post(ask(), headers=header), await f.get("/v1/models", headers=header)):
                    assert got.status == 401 and got.json["error"]["code"] == "invalid_api_key"
            assert f.engine.requests == []
            assert (await f.post(ask(), headers="authorization: bearer k-one\r\n")).status == 200
            assert [e.caller for e in await f.recorded()] == ["app"]
            assert (await f.get("/healthz")).status == 200

    run(check())


def test_a_callers_key_never_reaches_the_engine() -> None:
    async def check() -> None:
        async with front(hello, keys=KEYS) as f:
            await f.post(ask(), headers="Authorization: Bearer k-one\r\n")
            assert b"k-one" not in f.engine.heads[0]

    run(check())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 200),
        ("Origin: http://localhost:3000\r\n", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
    ],
)
def test_a_keyless_gateway_refuses_other_sites(headers: str, status: int) -> None:
    async def check() -> None:
        async with front(hello) as f:
            assert (await f.post(ask(), headers=headers)).status == status

    run(check())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("[::1]:9", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_keyless_gateway_refuses_rebound_names(host: str, status: int) -> None:
    async def check() -> None:
        async with front(hello) as f:
            data = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert int((await f.raw(data.encode())).split()[1]) == status

    run(check())


def test_beyond_loopback_needs_public_and_keys() -> None:
    async def check() -> None:
        gateway = Gateway(Fleet(Shared()))
        with pytest.raises(UserError, match=r"serve\.public"):
            await gateway.start("0.0.0.0", 0)
        with pytest.raises(UserError, match="needs keys"):
            await gateway.start("0.0.0.0", 0, public=True)
        keyed = Gateway(Fleet(Shared()), Settings(keys=tuple(plain_keys(KEYS))))
        with pytest.raises(UserError, match=r"serve\.public"):
            await keyed.start("::", 0)

    run(check())


def test_a_port_taken_is_one_clear_line() -> None:
    async def check() -> None:
        async with front(hello) as f:
            with pytest.raises(UserError, match=f"{f.port} cannot be used .*--port") as e:
                await Gateway(Fleet(Shared())).start("127.0.0.1", f.port)
            assert "\n" not in e.value.line()

    run(check())


async def console(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A page that shows what it was asked."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = b"seen:" + head.partition(b"\r\n")[0]
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    writer.close()


def test_other_paths_are_the_consoles_and_keys_guard_it_too(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")

    async def check() -> None:
        server = await asyncio.start_unix_server(console, path)
        async with front(hello, proxy=path) as f:
            got = await f.get("/runs/1?x=%2F")
            assert (got.status, got.headers["content-type"]) == (200, "text/html")
            assert got.body == b"seen:GET /runs/1?x=%2F HTTP/1.1"
            head = await f.get("/", method="HEAD")
            assert head.status == 200 and head.body == b""
            assert (await f.get("/", headers="Origin: http://evil.example\r\n")).status == 403
        async with front(hello, proxy=path, keys=KEYS) as f:
            closed = await f.get("/runs")
            assert closed.status == 401 and closed.headers["www-authenticate"].startswith("Basic")
            for password, status in (("k-zwei-ü", 200), ("k-zwei", 401), ("", 401)):
                given = b64encode(f"me:{password}".encode()).decode()
                assert (await f.get("/runs", headers=f"Authorization: Basic {given}\r\n")).status == status
            assert (await f.get("/runs", headers="Authorization: Basic ###\r\n")).status == 401
            assert (await f.get("/metrics")).status == 200  # this machine's Prometheus needs no key
        server.close()
        async with front(hello, proxy=str(tmp_path / "gone.sock")) as f:
            assert (await f.get("/")).status == 502

    run(check())


def test_a_gateway_whose_last_key_is_revoked_stays_closed_and_refusals_have_an_id() -> None:
    async def check() -> None:
        async with front(hello, keys=KEYS) as f:
            f.gateway.configure(Settings())
            for header in ("", "Authorization: Bearer k-one\r\n"):
                got = await f.post(ask(), headers=header)
                assert got.status == 401 and got.headers["x-request-id"].startswith("req_")
            assert (await f.get("/v1/models")).status == 401

    run(check())


def test_anthropics_clients_find_the_requests_id_and_a_large_body_is_told_the_limit() -> None:
    async def check() -> None:
        async with front(hello, body_limit=2048) as f:
            asked = {"model": "desk", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
            got = await f.post(asked, path="/v1/messages")
            assert got.headers["request-id"] == got.headers["x-request-id"] != ""
            got = await f.post(ask("x" * 5000))
            assert got.status == 413 and "2 kB (serve.max_body_kb)" in got.json["error"]["message"]

    run(check())
