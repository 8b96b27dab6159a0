"""What does our streaming client cost beside others? CPU per chunk and TTFT bias at 64 simultaneous streams.

    python -m benchmarks.client [--quick] [--json]

Every client reads the same streams from the same null server (its own process), each round in a process of its own, in
alternating order. CPU is user + system time of the client's process while the streams run, after a warm-up round of
streams in the same process. The bias is the reported TTFT less the time from the server's reading of the request to its
writing of the first token, by its own stamps on the same clock: zero for a client that adds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from typing import Any

from pilothouse.core.client import chat_request, run
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import Pool, exchange
from pilothouse.core.wire import target as parse
from pilothouse.core.wire_chat import completion
from pilothouse.measure.null_server import NullServer, Timetable

STREAMS = 64
ASK = [{"role": "user", "content": "null"}]
# What a client reports of one stream: its TTFT, and the stamps of the first token's chunk.
Seen = tuple[float, dict[str, float]]


def ours(url: str) -> Callable[[], Awaitable[list[Seen]]]:
    """The raw client as the load uses it; every answer is also parsed in full, so that the work is comparable."""
    endpoint, pool = Endpoint(url, "null"), Pool(parse(url))
    request = chat_request(endpoint, pool.target, ASK, max_tokens=1, stream=True)

    async def streams() -> list[Seen]:
        start = monotonic()
        raws = await asyncio.gather(*(exchange(pool, request, timeout_s=60, t_sched=start) for _ in range(STREAMS)))
        found = []
        for raw in raws:
            answer = completion(raw, open_loop=True)
            assert answer.error == "", answer.error
            assert answer.timing is not None
            assert answer.timing.ttft is not None
            found.append((answer.timing.ttft, _stamp(raw.body)))
        return found

    return streams


def openai(url: str) -> Callable[[], Awaitable[list[Seen]]]:
    """The openai library's async client."""
    from openai import AsyncOpenAI

    client: Any = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def one(start: float) -> Seen:
        seen: Seen | None = None
        async for chunk in await client.chat.completions.create(model="null", messages=ASK, stream=True):
            if seen is None and chunk.choices and chunk.choices[0].delta.content:
                seen = monotonic() - start, chunk.model_extra["null"]
        assert seen is not None
        return seen

    return _together(one)


def httpx2(url: str) -> Callable[[], Awaitable[list[Seen]]]:
    """httpx2's async client, lines split by the library, JSON by the standard library."""
    import httpx2 as library

    client = library.AsyncClient(timeout=60, limits=library.Limits(max_connections=STREAMS))

    async def one(start: float) -> Seen:
        body = {"model": "null", "messages": ASK, "stream": True}
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            return await _lines(answer.aiter_lines(), start)

    return _together(one)


def aiohttp(url: str) -> Callable[[], Awaitable[list[Seen]]]:
    """aiohttp's client, read line by line, JSON by the standard library."""
    library: Any = import_module("aiohttp")
    session: Any = None

    async def one(start: float) -> Seen:
        body = {"model": "null", "messages": ASK, "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            return await _lines((line.decode() async for line in answer.content), start)

    async def streams() -> list[Seen]:
        nonlocal session
        session = session or library.ClientSession(connector=library.TCPConnector(limit=STREAMS))
        start = monotonic()
        return await asyncio.gather(*(one(start) for _ in range(STREAMS)))

    return streams


CLIENTS = {"pilothouse": ours, "openai": openai, "httpx2": httpx2, "aiohttp": aiohttp}


def _together(one: Callable[[float], Awaitable[Seen]]) -> Callable[[], Awaitable[list[Seen]]]:
    async def streams() -> list[Seen]:
        start = monotonic()
        return await asyncio.gather(*(one(start) for _ in range(STREAMS)))

    return streams


async def _lines(lines: Any, start: float) -> Seen:
    seen: Seen | None = None
    async for line in lines:
        if not line.startswith("data: ") or line.startswith("data: [DONE]"):
            continue
        chunk = json.loads(line[6:])
        if seen is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            seen = monotonic() - start, chunk["null"]
    assert seen is not None
    return seen


def _stamp(body: bytes) -> dict[str, float]:
    line = next(line for line in body.split(b"\n") if b'"null":{' in line)
    stamp: dict[str, float] = json.loads(line[6:])["null"]
    return stamp


def measure(name: str, url: str, tokens: int) -> dict[str, float]:
    """One round of one client, in this process."""

    async def main() -> dict[str, float]:
        streams = CLIENTS[name](url)
        await streams()
        before = resource.getrusage(resource.RUSAGE_SELF)
        seen = await streams()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        bias = [ttft - (stamp["written"] - stamp["received"]) for ttft, stamp in seen]
        return {
            "cpu_us_per_chunk": cpu * 1e6 / (STREAMS * tokens),
            "ttft_bias_ms": statistics.median(bias) * 1e3,
            "ttft_ms": statistics.median(ttft for ttft, _ in seen) * 1e3,
        }

    return run(main())


def compare(*, quick: bool) -> dict[str, Any]:
    """Alternating rounds of every installed client; medians, ranges and ratios to ours."""
    rounds, tokens = (3, 50) if quick else (7, 100)
    names = [name for name in CLIENTS if name == "pilothouse" or find_spec(name)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with NullServer(Timetable(ttft_ms=50, itl_ms=10, tokens=tokens)) as server:
        for i in range(rounds):
            for name in names if i % 2 == 0 else reversed(names):
                command = [sys.executable, "-m", "benchmarks.client", "--one", name, server.url, str(tokens)]
                found[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    clients: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in found.items():
        clients[name] = {}
        for key in rows[0]:
            values = [row[key] for row in rows]
            clients[name][key] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    mine = clients["pilothouse"]["cpu_us_per_chunk"]["median"]
    ratios = {n: c["cpu_us_per_chunk"]["median"] / mine for n, c in clients.items() if n != "pilothouse"}
    return {
        "benchmark": "client",
        "streams": STREAMS,
        "tokens": tokens,
        "rounds": rounds,
        "server_ttft_ms": 50,
        "clients": clients,
        "cpu_ratio_to_ours": ratios,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 50 tokens instead of 7 of 100")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--one", nargs=3, metavar=("CLIENT", "URL", "TOKENS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], given.one[1], int(given.one[2]))))
        return
    result = compare(quick=given.quick)
    if given.json:
        print(json.dumps(result))
        return
    print(f"{STREAMS} streams, {result['rounds']} rounds of {result['tokens']} tokens; medians (range)")
    for name, row in result["clients"].items():
        cells = (f"{key} {v['median']:.2f} ({v['min']:.2f}–{v['max']:.2f})" for key, v in row.items())
        print(f"{name:11s} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
