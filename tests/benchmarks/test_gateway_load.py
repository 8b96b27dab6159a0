"""The load and the accounts of the gateway's benchmark: do they see what is wrong, and count what is spent?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from benchmarks.gateway import headline
from benchmarks.gateway_account import cpu_ns, family, memory_mb
from benchmarks.gateway_load import Tally, ask, check, exact, paced, percentile, requests, streams
from benchmarks.gateway_mock import Mock, time_of, word
from benchmarks.gateway_peers import vllm_router
from benchmarks.gateway_rounds import Seen

from benchmarks import peers_venv
from pilothouse.core.client import run

SHORT = {"ttft_ms": 5, "itl_ms": 1, "tokens": 4}


def test_a_time_survives_its_word() -> None:
    for seconds in (0.0, 0.000001, 1.5, 123456.789012, 5_000_000.25):
        assert time_of(word(seconds)) == pytest.approx(seconds, abs=1.1e-6)
    assert word(123456.789012).isalpha()


def test_every_whole_answer_of_the_mock_is_counted_once() -> None:
    with Mock() as mock:
        where, request = ask(mock.url, {}, stream=False)
        answer = run(exact(where, request))
        tally = run(requests(where, request, total=500, at_once=16))
    assert answer["choices"][0]["message"]["content"]
    assert (tally.ok, tally.errors, tally.started) == (500, 0, 500)


def test_streams_come_whole_and_the_lag_is_what_the_wire_adds() -> None:
    with Mock() as mock:
        where, request = ask(mock.url, {}, stream=True, null=SHORT)
        tally = check(run(streams(where, request, at_once=8, times=2)), tokens=4)
        lags = run(paced(where, request, times=5))
    assert (tally.ok, tally.errors) == (16, 0)
    assert (len(lags.first), len(lags.later)) == (5, 15)
    assert 0 < min(lags.first) < 5_000  # µs, and not the 5 ms that the upstream waits before its first token
    assert min(lags.later) > 0


def _serving(answer: Callable[[asyncio.StreamWriter], None], use: Callable[[str], Tally]) -> Tally:
    """Ask a server that reads one request a connection and writes what `answer` writes."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer(writer)
        writer.close()

    async def main() -> Tally:
        server = await asyncio.start_server(one, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            return await asyncio.to_thread(use, url)

    return asyncio.run(main())


def _three(url: str) -> Tally:
    where, request = ask(url, {}, stream=False)
    return run(requests(where, request, total=3, at_once=1, timeout_s=20))


def test_a_front_that_hangs_up_is_counted_as_failed() -> None:
    tally = _serving(lambda _: None, _three)
    assert (tally.ok, tally.errors) == (0, 3)
    assert "closed" in tally.why


def test_an_error_of_the_front_is_no_success() -> None:
    head = b"HTTP/1.1 503 -\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    tally = _serving(lambda writer: writer.write(head), _three)
    assert (tally.ok, tally.errors, tally.why) == (0, 3, "HTTP 503")


def test_a_stream_that_lacks_a_token_is_not_whole() -> None:
    with Mock() as mock:
        where, request = ask(mock.url, {}, stream=True, null=SHORT)
        raws = run(streams(where, request, at_once=1))
    assert check(raws, tokens=4).errors == 0
    tally = check(raws, tokens=5)
    assert (tally.errors, tally.why) == (1, "HTTP 200, 5 words of 6")


def test_cpu_of_children_is_counted_and_rest_costs_nothing() -> None:
    code = (
        "import subprocess, sys\n"
        "busy = 'import time\\nwhile time.process_time() < 0.3: pass\\nprint(1, flush=True)\\ntime.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', busy], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(1, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        found = family([parent.pid])
        assert len(found) == 2
        spent = cpu_ns(found)
        assert spent - cpu_ns([parent.pid]) > 290e6
        time.sleep(0.2)
        assert cpu_ns(found) - spent < 20e6
        assert memory_mb(found) > memory_mb([parent.pid]) > 1
    finally:
        for pid in reversed(family([parent.pid])):
            subprocess.run(["kill", "-9", str(pid)], check=True)
        parent.wait()


def test_percentile_is_a_value_that_was_seen() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.99), percentile(values, 0.5), percentile([7.0], 0.99)) == (99.0, 50.0, 7.0)


def test_a_peer_that_is_not_installed_has_no_figures(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PILOTHOUSE_PEERS", str(tmp_path))
    assert peers_venv.program("litellm") is None
    assert peers_venv.version("litellm") is None
    assert vllm_router("http://127.0.0.1:1", tmp_path) == "not installed"


def test_ratios_are_theirs_over_ours_and_null_without_a_peer() -> None:
    def seen(cpu: float) -> Seen:
        memory = {"rss_mb": 30.0, "rss_total_mb": 60.0}
        return Seen(memory, cpu_request=[cpu], cpu_chunk=[cpu / 2], rate=[1.0], first=[cpu], later=[cpu])

    found = headline({"direct": seen(10.0), "pilothouse": seen(50.0), "nginx": seen(25.0)})
    assert (found["cpu_us_request"], found["cpu_us_chunk"], found["ttft_added_p50_us"]) == (50.0, 25.0, 40.0)
    assert (found["nginx_over_ours_request"], found["nginx_over_ours_chunk"]) == (0.5, 0.5)
    assert found["litellm_over_ours_request"] is None
    assert found["vllm_router_over_ours_chunk"] is None
