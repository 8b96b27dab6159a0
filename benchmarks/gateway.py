"""What does the gateway cost? Added TTFT, added time a chunk and CPU a chunk over asking the upstream directly.

    python -m benchmarks.gateway [--quick] [--json]

Arms in alternating rounds over the same null server (a process of its own): direct, our gateway, our gateway with the
whole guard (secrets, PII, injection), and nginx as a plain proxy where it is on PATH. Times are the client's read time
less the server's own stamp in each chunk, on one clock. CPU is that of the front's process (nginx: its worker), read
from /proc while 32 streams run. Everything stays on loopback and is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pilothouse.core.client import chat_request, run
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import Pool, exchange, target
from pilothouse.measure.null_server import NullServer, Timetable
from pilothouse.serve.ports import free_port

TABLE = Timetable(ttft_ms=2.0, itl_ms=2.0, tokens=24)
STREAMS = 32
ASK = [{"role": "user", "content": "Where is my bag? I landed in Lisbon this morning and it did not come."}]


@contextmanager
def ours(upstream: str, *, guarded: bool) -> Iterator[tuple[str, int]]:
    """Our gateway in a process of its own: URL and process id."""
    argv = [sys.executable, "-m", "benchmarks.gateway", "--front", upstream, *(["--guarded"] if guarded else [])]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def nginx(upstream: str) -> Iterator[tuple[str, int]]:
    """nginx with buffering off and kept upstream connections: URL and the worker's process id."""
    port, address = free_port(), upstream.removeprefix("http://")
    with tempfile.TemporaryDirectory() as folder:
        temp = "".join(f"{n}_temp_path {folder}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
            f"events {{ worker_connections 1024; }} http {{ access_log off; {temp}"
            f"upstream u {{ server {address}; keepalive 64; }} server {{ listen 127.0.0.1:{port};"
            "location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection '';"
            "proxy_buffering off; } } }"
        )
        process = subprocess.Popen(["nginx", "-c", str(config), "-p", folder], stderr=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}", _worker(process.pid)
        finally:
            process.terminate()
            process.wait()


def _worker(master: int) -> int:
    for _ in range(100):
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if children:
            return int(children[0])
        subprocess.run(["sleep", "0.05"], check=True)
    raise RuntimeError("nginx started no worker")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def round_of(url: str, requests: int) -> dict[str, list[float]]:
    """One request after another: TTFT over the upstream's own, and the lag of every further chunk, both in µs."""
    endpoint, pool = Endpoint(url, "null"), Pool(target(url))
    request = chat_request(endpoint, pool.target, ASK, max_tokens=64, stream=True)
    first: list[float] = []
    later: list[float] = []
    for _ in range(requests):
        raw = await exchange(pool, request, timeout_s=30)
        assert not raw.error, raw.error
        lags = list(_lags(raw))
        first.append((lags[0][0] - raw.t_send - TABLE.ttft_ms / 1e3) * 1e6)
        later += [(read - written) * 1e6 for read, written in lags[1:]]
    pool.close()
    return {"ttft": first, "chunk": later}


def _lags(raw: Any) -> Iterator[tuple[float, float]]:
    """(read, written) of each chunk with text; pieces may hold several events or parts of one."""
    rest = b""
    for t, data in raw.pieces():
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if b'"null":{' in event and b'"content":"' in event:
                stamp = json.loads(event.removeprefix(b"data: "))["null"]
                yield t, stamp["written"]


async def load(url: str, streams: int) -> int:
    """`streams` at a time, twice; how many chunks came."""
    endpoint, pool = Endpoint(url, "null"), Pool(target(url))
    request = chat_request(endpoint, pool.target, ASK, max_tokens=64, stream=True)
    chunks = 0
    for _ in range(8):
        raws = await asyncio.gather(*(exchange(pool, request, timeout_s=30) for _ in range(streams)))
        assert not any(raw.error for raw in raws)
        chunks += sum(len(list(_lags(raw))) for raw in raws)
    pool.close()
    return chunks


def benchmark(*, quick: bool) -> dict[str, Any]:
    """All arms in alternating rounds."""
    rounds, requests = (3, 15) if quick else (9, 40)
    with ExitStack() as stack:
        upstream = stack.enter_context(NullServer(TABLE)).url
        arms: dict[str, tuple[str, int]] = {"direct": (upstream, 0)}
        arms["gateway"] = stack.enter_context(ours(upstream, guarded=False))
        arms["gateway guarded"] = stack.enter_context(ours(upstream, guarded=True))
        if shutil.which("nginx"):
            arms["nginx"] = stack.enter_context(nginx(upstream))
        seen: dict[str, dict[str, list[float]]] = {name: {"ttft": [], "chunk": [], "cpu": []} for name in arms}
        for _ in range(rounds):
            for name, (url, pid) in arms.items():
                for figure, values in run(round_of(url, requests)).items():
                    seen[name][figure].append(statistics.median(values))
                if pid:
                    before = cpu_s(pid)
                    chunks = run(load(url, STREAMS))
                    seen[name]["cpu"].append((cpu_s(pid) - before) * 1e6 / chunks)
    base = seen.pop("direct")
    result: dict[str, Any] = {"benchmark": "gateway", "rounds": rounds, "requests_a_round": requests, "arms": {}}
    for name, figures in seen.items():
        added = [a - b for a, b in zip(figures["ttft"], base["ttft"], strict=True)]
        chunk = [a - b for a, b in zip(figures["chunk"], base["chunk"], strict=True)]
        result["arms"][name] = {
            "added_ttft_us": round(statistics.median(added), 1),
            "added_chunk_us": round(statistics.median(chunk), 1),
            "cpu_us_per_chunk": round(statistics.median(figures["cpu"]), 1),
        }
    if "nginx" in result["arms"]:
        peer = result["arms"]["nginx"]
        result["ratio_to_nginx"] = {
            name: {k: round(v / peer[k], 2) for k, v in figures.items()}
            for name, figures in result["arms"].items()
            if name != "nginx"
        }
    return result


async def front(upstream: str, *, guarded: bool) -> None:
    """The gateway's process: routes `null` to the upstream, prints its URL, waits for SIGTERM."""
    from pilothouse.core.project.schema import Guard, Rule
    from pilothouse.guard.policy import compile_policy
    from pilothouse.serve.gateway.gateway import Gateway
    from pilothouse.serve.gateway.routes import Route

    class Backend:
        """The null server as an engine."""

        url, api_key, restarts, failure, alias = upstream, "", 0, "", "null"
        ready = asyncio.Event()

        def fields(self, adapter: str | None) -> dict[str, Any]:
            return {}

    Backend.ready.set()
    rules = (Rule(detector="secrets"), Rule(detector="pii", action="redact"), Rule(detector="injection", on=("input",)))
    policy = compile_policy(Guard(rules=rules)) if guarded else None
    gateway = Gateway(Backend(), {"null": Route()}, policy=policy)
    print(f"http://127.0.0.1:{await gateway.start('127.0.0.1', 0)}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object (the default output is the same, indented)"
    )
    parser.add_argument("--front", help=argparse.SUPPRESS)
    parser.add_argument("--guarded", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.front:
        run(front(args.front, guarded=args.guarded))
        return
    print(json.dumps(benchmark(quick=args.quick), indent=None if args.json else 2))


if __name__ == "__main__":
    main()
