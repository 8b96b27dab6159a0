"""Our own fronts in the gateway's benchmark, and what a front is there.

`ours` is the only function to change when the way we serve changes: it starts our front for an upstream and says where
it answers, what a caller must send, and which processes it is. Run as a program this file is the control process, as
`pilothouse serve` has it: a store, a key with limits, two replicas to route between, exchanges recorded, one process of
the gateway.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.gateway_account import family

Front = tuple[str, Mapping[str, str], list[int], list[int]]
"""URL, headers of a caller, processes that carry requests, all processes."""
_UPSTREAM_KEY = "PILOTHOUSE_BENCH_UPSTREAM_KEY"
_NO_LIMIT = 1_000_000_000
"""Limits that are counted and never reached."""


class _Said(msgspec.Struct):
    """What the control process prints when it serves."""

    url: str
    key: str
    workers: list[int]


@dataclass(frozen=True)
class Arm:
    """One front under test. workers: those of its processes that carry requests, where others stand beside them. slow:
    measured with fewer requests, because it takes milliseconds for each. settle_s: how
    long it may put work off (ours writes exchanges in batches), so that the wait for it is at least that long.
    """

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    slow: bool = False
    settle_s: float = 0.1

    def processes(self) -> list[int]:
        """All of them with their children, as they are now."""
        return family(self.pids)


@contextmanager
def ours(upstream_url: str, guarded: bool, *, api_key: str = "") -> Iterator[Front]:
    """Our production front over an upstream. api_key: what the upstream asks for."""
    argv = [sys.executable, "-m", "benchmarks.gateway_arms", upstream_url, *(["--guarded"] if guarded else [])]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, _UPSTREAM_KEY: api_key})
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"our gateway did not start (code {process.wait()})")
        said = msgspec.json.decode(line, type=_Said)
        yield said.url, {"Authorization": f"Bearer {said.key}"}, said.workers, [process.pid]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def our_arm(name: str, upstream_url: str, *, guarded: bool = False, api_key: str = "") -> Iterator[Arm]:
    """Our front as an arm."""
    with ours(upstream_url, guarded, api_key=api_key) as (url, headers, workers, pids):
        yield Arm(name, url, headers, tuple(workers), tuple(pids), settle_s=0.5)


def serve(upstream: str, folder: Path, *, guarded: bool) -> None:
    """The control process, until SIGTERM."""
    from pilothouse.core.project.schema import Guard, Rule
    from pilothouse.serve.base import EngineSpec
    from pilothouse.serve.deployment import Deployment, Route
    from pilothouse.serve.gateway import control
    from pilothouse.serve.keyring import Keyring
    from pilothouse.serve.recorder import StoreRecorder
    from pilothouse.serve.run import Live
    from pilothouse.store import keys
    from pilothouse.store.store import Store

    store = Store.open(folder / "store")
    limits: keys.Limits = {"requests_per_minute": _NO_LIMIT, "tokens_per_minute": _NO_LIMIT, "concurrency": 100_000}
    _, secret = keys.add(store, "bench", **limits)
    options = {"url": upstream, "model": "null", **({"key_env": _UPSTREAM_KEY} if os.environ[_UPSTREAM_KEY] else {})}
    spec = EngineSpec(folder, "null", streams=2048, options=options)
    live = Live([Deployment("bench", "remote", spec, {"null": Route()}, replicas=2)], folder, _say)
    rules = (Rule(detector="secrets"), Rule(detector="pii", action="redact"), Rule(detector="injection", on=("input",)))
    policy = Guard(rules=rules).model_dump_json().encode() if guarded else b""
    keyring = Keyring(store, {})
    live.start()
    try:
        settings = control.Configure(policy=policy, policy_folder=str(folder), keys=keyring.keys())
        url, front = live.front(settings, recorder=StoreRecorder(store, record_text=False))
        keyring.attach(front.memory, lambda: None)
        print(msgspec.json.encode(_Said(url, secret, front.pids)).decode(), flush=True)
        signal.sigwait({signal.SIGTERM})
    finally:
        live.stop(0)
        keyring.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """One front, until SIGTERM."""
    parser = argparse.ArgumentParser(description="our gateway for the benchmark")
    parser.add_argument("upstream")
    parser.add_argument("--guarded", action="store_true")
    args = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with tempfile.TemporaryDirectory(prefix="pilothouse-bench-") as folder:
        serve(args.upstream, Path(folder), guarded=args.guarded)


if __name__ == "__main__":
    main()
