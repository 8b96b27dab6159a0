"""A real llama.cpp process under the supervisor: it answers, is restarted after a kill, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI

from pilothouse.core import client
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.serve import orphans
from pilothouse.serve.base import CAPABILITIES, EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.engines import llamacpp
from pilothouse.serve.memory import check_memory, kv_bytes_per_token
from pilothouse.serve.run import Live

pytestmark = pytest.mark.model


def _spec(model: Path, **changes: object) -> EngineSpec:
    return EngineSpec(**{"model": model, "alias": "m", "context": 512, "streams": 4, **changes})  # type: ignore[arg-type]


def test_kill_9_under_load_fails_what_was_in_flight_and_then_answers_again(smollm2: Path, tmp_path: Path) -> None:
    events: list[str] = []
    live = Live([Deployment("m", "llamacpp", _spec(smollm2), {"m": Route()})], tmp_path, events.append).start()
    try:
        endpoint = Endpoint(live.gateway(), "m")

        async def scene() -> list[client.Completion]:
            jobs = [
                client.Job([{"role": "user", "content": f"Tell story {i}"}], 120, {"stream": i % 2 == 0})
                for i in range(8)
            ]

            async def kill() -> None:
                await asyncio.sleep(1.0)
                assert live.supervisor.pid is not None
                os.kill(live.supervisor.pid, signal.SIGKILL)

            killer = asyncio.ensure_future(kill())
            answers = await client.chat_many(endpoint, jobs, concurrency=4)
            await killer
            return answers

        answers = client.run(scene())
        failed = [a for a in answers if a.error]
        assert failed and all("engine" in a.error for a in failed)
        assert not answers[-1].error, answers[-1].error
        assert live.supervisor.restarts == 1 and any("answers again" in e for e in events)
        # the real client of OpenAI, through the same gateway
        official = OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0)
        chunks = official.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Say hello"}], max_tokens=8, stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks).strip()
        whole = official.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Say hello"}], max_tokens=8
        )
        assert whole.usage is not None and whole.usage.completion_tokens > 0
    finally:
        live.stop()
    assert live.supervisor.pid is None and not (tmp_path / "engine.pid").exists()


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model" * 1000)
    with pytest.raises(UserError, match="not a whole GGUF file"):
        Live([Deployment("m", "llamacpp", _spec(bad), {"m": Route()})], tmp_path / "engine", lambda _: None).start()


def test_what_the_engine_itself_refuses_is_one_line_with_its_reason(smollm2: Path, tmp_path: Path) -> None:
    bad = tmp_path / "adapter.gguf"
    bad.write_bytes(b"GGUF but no adapter" * 1000)
    spec = _spec(smollm2, adapters=(("a", bad),))
    with pytest.raises(UserError) as e:
        Live([Deployment("m", "llamacpp", spec, {"m": Route()})], tmp_path / "engine", lambda _: None).start()
    assert "exit code" in e.value.line() and "its log says nothing" not in e.value.line()


def test_an_engine_ends_with_a_pilothouse_that_is_killed(smollm2: Path, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from pilothouse.serve.base import CAPABILITIES, EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.run import Live
spec = EngineSpec(Path({str(smollm2)!r}), "m", context=256, streams=1)
live = Live([Deployment("m", "llamacpp", spec, {{"m": Route()}})],
            Path({str(tmp_path)!r}), print).start()
print(live.supervisor.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{engine}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{engine}/cmdline").read_bytes():
            break  # a zombie: ended, not yet collected by init
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{engine}").exists(), "the engine outlived its Pilothouse"
    orphans.end(tmp_path)
    assert not (tmp_path / "engine.pid").exists()


def test_memory_is_checked_before_launch_with_the_largest_setting_that_fits(smollm2: Path) -> None:
    # 2 · 30 layers · 3 kv heads · 64 · 2 bytes (the model's own metadata; f16 cache)
    assert kv_bytes_per_token(smollm2) == 2 * 30 * 3 * 64 * 2
    check_memory(_spec(smollm2))
    with pytest.raises(UserError, match=r"Set use\.streams to \d+ or less"):
        check_memory(_spec(smollm2, context=200_000, streams=256))


def test_adapters_are_chosen_by_scale_and_wrong_ones_refused() -> None:
    engine = llamacpp.create()
    assert engine.capabilities <= set(CAPABILITIES)
    spec = EngineSpec(Path("m"), "m", adapters=(("a", Path("a")), ("b", Path("b"))))
    assert engine.fields("b", spec) == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}
    assert engine.fields(None, spec) == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]}
    with pytest.raises(UserError, match="no adapter is called 'c'"):
        engine.fields("c", spec)
    with pytest.raises(UserError, match="no option 'treads'"):
        engine.launch(EngineSpec(Path("m"), "m", options={"treads": 2}), 1)
