"""The process that `openvino` launches: OpenVINO GenAI with the settings from argv behind our front, until SIGTERM.

It runs in OpenVINO's own Python, with Pilothouse's folder at the end of the search path.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

STARTING = "pilothouse: starting OpenVINO"
_BLOCK = 32
"""Tokens of a block of the KV cache on CPUs (openvino.genai, cache manager)."""


def main() -> None:
    """Serve until SIGTERM; end with 1 when the engine has failed."""
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    print(STARTING, file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; only the supervisor decides
    settings = json.loads(sys.argv[1])
    try:
        reason = asyncio.run(_run(settings))
    except Exception as e:
        # Its last line: OpenVINO puts the place in its source before it.
        reason = next((line.strip() for line in reversed(str(e).splitlines()) if line.strip()), type(e).__name__)
    if reason:
        print(f"pilothouse: {reason}", file=sys.stderr, flush=True)
    sys.stderr.flush()
    os._exit(1 if reason else 0)  # the library takes seconds to take itself down, and has nothing to save


async def _run(settings: dict[str, Any]) -> str:
    """Until SIGTERM ('') or a failure of the engine (what it said)."""
    from pilothouse.serve.engines._openai_front import Front, serve
    from pilothouse.serve.engines._openvino_pipeline import Pipeline

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    genai, loaded = await asyncio.to_thread(_load, settings)
    pipeline = Pipeline(genai, loaded, settings["context"], settings["streams"])

    async def figures() -> bytes:
        return pipeline.figures()

    key = os.environ["PILOTHOUSE_ENGINE_KEY"]
    front = Front(settings["alias"], pipeline.generate, key, lambda: not pipeline.broken, figures)
    serving = asyncio.create_task(serve(front, settings["port"], stop))
    while not serving.done() and not pipeline.broken:
        await asyncio.wait([serving], timeout=0.2)
    if pipeline.broken:
        return pipeline.broken
    await serving  # what it raised, for example a port that is taken
    pipeline.close()
    return ""


def _load(settings: dict[str, Any]) -> tuple[Any, Any]:
    import openvino_genai as genai  # type: ignore[import-not-found, unused-ignore]

    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs = settings["streams"]
    scheduler.num_kv_blocks = settings["streams"] * -(-settings["context"] // _BLOCK)
    scheduler.enable_prefix_caching = settings["prefix_cache"]
    properties: dict[str, Any] = {"KV_CACHE_PRECISION": settings["kv_type"]}
    if settings["device"] == "CPU":
        properties["INFERENCE_NUM_THREADS"] = settings["threads"]
    return genai, genai.ContinuousBatchingPipeline(settings["model"], scheduler, settings["device"], properties)


if __name__ == "__main__":
    main()
