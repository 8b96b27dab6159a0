"""What does the gateway cost, beside others? CPU a request and a chunk, added time, memory; peers on the same upstream.

    python -m benchmarks.gateway [--quick] [--json] [--soak [N]]

Fronts in alternating rounds over the same mock upstream (a process of its own): direct, ours (keys, limits, routing,
metrics, exchange records on; guard off), ours with the guard, and the peers that are installed (`python -m
benchmarks.peers_venv`; nginx on PATH): LiteLLM's proxy, vllm-router, nginx. CPU is user + system time of all of a
front's processes by the kernel's account, what it writes later included; mock and client have their own account. Times
are the client's read time less the upstream's own stamps, on one clock. 1,000 streams at once, and the share of a real
engine's tokens a second that comes through. `--soak`: memory over N whole answers (default 1,000,000). Loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gateway_arms import Arm, our_arm
from benchmarks.gateway_engine import model, share
from benchmarks.gateway_mock import Mock
from benchmarks.gateway_peers import PEERS, Peer, starting
from benchmarks.gateway_rounds import Plan, Seen, crowd, one_round, soak, warm_up
from pilothouse.core.machine import cores

OURS, GUARDED = "pilothouse", "pilothouse_guarded"
_MEDIANS = ("cpu_us_request", "cpu_us_chunk")
_OPEN_FILES = 16_384


def benchmark(*, quick: bool, soak_requests: int = 0) -> dict[str, Any]:
    """All fronts; `quick` ends within 50 s: what does not fit is left out, as null."""
    began = time.monotonic()
    rounds, plan = (3, Plan(1280, 1, 20)) if quick else (9, Plan(4000, 3, 100))
    until = (began + 24, began + 33, began + 45) if quick else (began + 120, float("inf"), float("inf"))
    limit_open_files()
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pilothouse-peers-")))
        mock = stack.enter_context(Mock())
        peers = stack.enter_context(starting(mock.url, folder))
        mine = stack.enter_context(our_arm(OURS, mock.url))
        arms = [Arm("direct", mock.url), mine]
        if not quick:
            arms.append(stack.enter_context(our_arm(GUARDED, mock.url, guarded=True)))
        seen = {arm.name: Seen() for arm in arms}
        for arm in arms:
            warm_up(arm, seen[arm.name])
        thousand = crowd(mine)  # no figure of this is a time, so peers may start meanwhile
        missing, versions = dict[str, str](), dict[str, str | None]()
        for name, peer in peers.items():
            why = peer.ready(until[0]) if isinstance(peer, Peer) else peer
            versions[name] = peer.version if isinstance(peer, Peer) else None
            if isinstance(peer, Peer) and not why:
                arms.append(peer.arm)
                seen[name] = Seen()
                warm_up(peer.arm, seen[name])
            else:
                missing[name] = why
        others: dict[str, tuple[int, dict[str, list[float]]]] = {"mock": (mock.pid, {}), "client": (os.getpid(), {})}
        done, longest = 0, 0.0
        while done < rounds and (not done or time.monotonic() + longest < until[1]):
            start = time.monotonic()
            for arm in arms if done % 2 == 0 else reversed(arms):
                one_round(arm, plan, seen[arm.name], others if arm is mine else {})
            longest, done = max(longest, time.monotonic() - start), done + 1
        soaked = soak(mine, soak_requests) if soak_requests else None
    return {
        **headline(seen),
        "tokens_share_of_engine": None,
        "streams_1000": thousand,
        "soak": soaked,
        **engine_share(quick=quick, deadline=until[2]),
        "rounds": done,
        "arms": {name: each.figures(seen["direct"]) for name, each in seen.items()},
        "beside": {name: {what: round(min(v), 2) for what, v in notes.items()} for name, (_, notes) in others.items()},
        "missing": missing,
        "versions": {"pilothouse": version("pilothouse"), **versions, "uvloop": version("uvloop")},
        "machine": machine() | {"load_before": load_before},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "quick": quick,
        "benchmark": "gateway",
    }


def headline(seen: dict[str, Seen]) -> dict[str, Any]:
    """The figures that a machine reads, and each peer's CPU over ours: null where the peer was not measured."""
    direct = seen["direct"]
    mine = seen[OURS].figures(direct)
    found: dict[str, Any] = {key: mine[key]["median"] for key in _MEDIANS}
    for key in ("ttft_added_p50_us", "ttft_added_p99_us", "chunk_added_p50_us", "rss_mb", "rss_total_mb"):
        found[key] = mine[key]
    for peer in PEERS:
        theirs = seen[peer].figures(direct) if peer in seen else None
        for key in _MEDIANS:
            ratio = round(theirs[key]["median"] / mine[key]["median"], 3) if theirs else None
            found[f"{peer}_over_ours_{key.removeprefix('cpu_us_')}"] = ratio
        found[f"{peer}_ttft_added_p50_us"] = theirs["ttft_added_p50_us"] if theirs else None
    return found


def engine_share(*, quick: bool, deadline: float) -> dict[str, Any]:
    """Tokens a second through the gateway over the real engine's alone; null where no model or no time is there."""
    file = model(fetch=not quick)
    if file is None:
        return {"engine": "SmolLM2 is not in the tests' cache; a run without --quick brings it"}
    try:
        import xllamacpp  # noqa: F401
    except ImportError:
        return {"engine": "xllamacpp is not installed"}
    pairs, tokens = (12, 8) if quick else (12, 16)
    found = share(file, threads=max(1, cores() - 1), pairs=pairs, tokens=tokens, deadline=deadline)
    if found is None:
        return {"engine": "no round fitted into the time"}
    result = {"tokens_share_of_engine": found["share"], "engine": found}
    if not quick and cores() > 1:
        result["engine_on_all_cores"] = share(file, threads=cores(), pairs=8, tokens=tokens, deadline=deadline)
    return result


def limit_open_files() -> None:
    """A thousand streams are two thousand sockets in the front: ask for more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def table(result: dict[str, Any]) -> str:
    """The fronts, one a line, for people."""
    head = ("front", "CPU µs/request", "CPU µs/chunk", "TTFT +p50", "+p99 µs", "chunk +p50 µs", "RSS MB")
    rows = [head]
    for name, each in result["arms"].items():
        cpu = [
            f"{each[key]['median']:.1f}" if each["cpu_us_request"] and each[key]["median"] else "" for key in _MEDIANS
        ]
        lag = [f"{each[k]:.0f}" for k in ("ttft_added_p50_us", "ttft_added_p99_us", "chunk_added_p50_us")]
        rows.append((name, *cpu, *lag, f"{each['rss_total_mb']:.0f}" if "rss_total_mb" in each else ""))
    rows += [(name, why, "", "", "", "", "") for name, why in result["missing"].items()]
    lines = ["".join(f"{cell:<20}" if i == 0 else f"{cell:>16}" for i, cell in enumerate(row)) for row in rows]
    crowd_, share_ = result["streams_1000"], result["tokens_share_of_engine"]
    lines.append(
        f"1,000 streams: {crowd_['ok']} whole, {crowd_['errors']} failed, {crowd_['open_at_once']} open at once"
    )
    lines.append(f"tokens/s through the gateway over the engine alone: {share_ or 'not settled'} {result['engine']}")
    if result["soak"]:
        lines.append(f"soak: {result['soak']}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 50 s: fewer rounds, what does not fit is null")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--soak", nargs="?", type=int, const=1_000_000, default=0, metavar="N", help="whole answers")
    given = parser.parse_args()
    result = benchmark(quick=given.quick, soak_requests=given.soak)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
