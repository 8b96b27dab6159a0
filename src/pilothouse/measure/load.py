"""Offer a load: plan it, hand it to the client process, wait for its log.

The client is a process of its own because timestamps are only as good as the loop that takes them: gateway, engine
supervisor and progress bars live in this process and would delay its reads.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pilothouse.core.client import chat_request
from pilothouse.core.records import Endpoint
from pilothouse.core.wire import target
from pilothouse.measure.send import Plan


def plan(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    offsets: Sequence[float],
    *,
    max_tokens: int,
    timeout_s: float,
    seed: int,
    log: Path,
) -> Plan:
    """Requests ready to write, in a seeded order in which every prompt comes once before any comes again."""
    where = target(endpoint.url)
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < len(offsets):
        order += [int(i) for i in rng.permutation(len(prompts))]
    order = order[: len(offsets)]
    used = sorted(set(order))
    place = {prompt: i for i, prompt in enumerate(used)}
    requests = tuple(chat_request(endpoint, where, prompts[i], max_tokens=max_tokens, stream=True) for i in used)
    return Plan(
        url=endpoint.url,
        secret=endpoint.api_key,
        requests=requests,
        order=tuple(place[i] for i in order),
        offsets=tuple(offsets),
        timeout_s=timeout_s,
        log=str(log),
    )


def offer(plan: Plan, *, on_done: Callable[[int], None] | None = None) -> None:
    """Run the plan in the client process until every request has ended; `on_done(status)` for each, 0 for a failure.

    Interrupting ends the client, and its log stays cut off.
    """
    command = [sys.executable, "-m", "pilothouse.measure.send"]
    errors = Path(f"{plan.log}.stderr")
    with errors.open("wb") as stderr:
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(msgspec.json.encode(plan) + b"\n")
            client.stdin.flush()
            for line in client.stdout:
                if on_done is not None:
                    on_done(int(line))
            code = client.wait()
        except BrokenPipeError:
            code = client.wait()
        finally:
            if client.poll() is None:
                client.kill()
                client.wait()
            client.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                client.stdin.close()
    if code != 0:
        last = errors.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the load client ended with code {code}: {last[0]}")
    errors.unlink()
