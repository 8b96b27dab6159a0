"""The real thing: SmolLM2 in a real llama.cpp process behind real gateways, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pilothouse.core.client import Job, chat_many, run
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.serve import memory
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.run import Live
from tests.serve.test_gateway_guard import REFUSAL, policy

pytestmark = pytest.mark.model
HI = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes every answer: noise on one layer, large enough to be heard."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    path: Path = tmp_path_factory.mktemp("adapter") / "loud.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    rng = np.random.default_rng(0)
    for layer in range(10, 20):
        name = f"blk.{layer}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", rng.normal(0, 0.2, (4, 1536)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.normal(0, 0.2, (576, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def live(smollm2: Path, loud: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    spec = EngineSpec(smollm2, "desk", (("desk", loud),), context=512, streams=4)
    routes = {"desk": Route("desk"), "desk-base": Route(None)}
    made = Live([Deployment("m", "llamacpp", spec, routes)], tmp_path_factory.mktemp("engine"), lambda _: None).start()
    yield made
    made.stop(2)


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_openais_client_whole_streamed_and_wrong(live: Live) -> None:
    ai = client(live.gateway())
    assert [m.id for m in ai.models.list()] == ["desk", "desk-base"]
    fixed: dict[str, Any] = {"model": "desk-base", "messages": HI, "temperature": 0, "max_tokens": 12}
    answer = ai.chat.completions.create(**fixed)
    assert answer.usage and answer.usage.completion_tokens and answer.choices[0].message.content
    chunks = list(ai.chat.completions.create(**fixed, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == answer.choices[0].message.content
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert all(c.usage is None for c in ai.chat.completions.create(**fixed, stream=True))
    with pytest.raises(openai.NotFoundError, match="desk, desk-base"):
        ai.chat.completions.create(model="gpt-4", messages=HI)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="context"):
        ai.chat.completions.create(**{**fixed, "messages": [{"role": "user", "content": "word " * 900}]})


def test_the_models_name_chooses_the_adapter_in_every_request(live: Live) -> None:
    ai = client(live.gateway())

    def says(model: str) -> str:
        answer = ai.chat.completions.create(model=model, messages=HI, temperature=0, max_tokens=12)  # type: ignore[arg-type]
        return answer.choices[0].message.content or ""

    base, tuned = says("desk-base"), says("desk")
    assert base != tuned
    assert [says("desk-base"), says("desk"), says("desk-base")] == [base, tuned, base]


def test_a_guarded_gateway_and_an_open_one_before_the_same_engine(live: Live) -> None:
    open_, guarded = client(live.gateway()), client(live.gateway(policy=policy(terms=["hello"], on=("output",))))
    ask: dict[str, Any] = {"model": "desk-base", "messages": HI, "temperature": 0, "max_tokens": 24}
    assert "hello" in (open_.chat.completions.create(**ask).choices[0].message.content or "").lower()
    chunks = list(guarded.chat.completions.create(**ask, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "hello" not in text.lower() and text.endswith(REFUSAL)
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_the_engine_answers_nobody_but_the_gateway(live: Live) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(live.supervisor.url).chat.completions.create(model="desk", messages=HI)  # type: ignore[arg-type]


def test_kill_9_under_load_fails_what_runs_and_serves_what_follows(live: Live) -> None:
    url, pid = live.gateway(), live.supervisor.pid
    assert pid
    at = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
    at.start()
    jobs = [Job(HI, 200, {"stream": True, "ignore_eos": True}) for _ in range(4)]
    done = run(chat_many(Endpoint(url, "desk-base"), jobs, concurrency=4))
    at.join()
    assert all("engine ended before its answer was whole" in c.error for c in done)
    after = run(chat_many(Endpoint(url, "desk-base"), [Job(HI, 4)] * 4, concurrency=4))
    assert [c.error for c in after] == [""] * 4
    assert live.supervisor.restarts == 1 and live.supervisor.pid not in (None, pid)


def test_a_client_that_leaves_frees_the_engine(live: Live) -> None:
    from urllib.request import Request, urlopen

    ai = client(live.gateway())
    stream = ai.chat.completions.create(
        model="desk-base",
        messages=HI,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},  # type: ignore[arg-type]
    )
    next(iter(stream))
    stream.close()
    head = {"authorization": f"Bearer {live.supervisor.api_key}"}
    deadline = time.monotonic() + 3
    running: float | None = 1.0
    while running and time.monotonic() < deadline:
        time.sleep(0.1)
        with urlopen(Request(f"{live.supervisor.url}/metrics", headers=head)) as page:
            running = live.supervisor.engine.gauges(page.read().decode()).running
    assert running == 0.0


@pytest.mark.parametrize("bad", ["model", "adapter"])
def test_a_bad_file_is_one_line_with_llamacpps_reason(smollm2: Path, tmp_path: Path, bad: str) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GG?F" + b"x" * 100_000)
    spec = (
        EngineSpec(wrong, "m", context=128, streams=1)
        if bad == "model"
        else EngineSpec(smollm2, "m", (("a", wrong),), context=128, streams=1)
    )
    with pytest.raises(UserError) as e:
        Live([Deployment("m", "llamacpp", spec, {"m": Route()})], tmp_path / "engine", lambda _: None).start()
    print(e.value.line())
    assert "wrong.gguf" in e.value.line() and "magic" in e.value.line() and "\n" not in e.value.line()


def test_memory_is_checked_from_the_models_own_figures(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    assert memory.kv_bytes_per_token(smollm2) == 2 * 30 * 3 * 64 * 2  # K and V, layers, kv heads, head size, f16
    monkeypatch.setattr(memory, "available", lambda: 600_000_000)
    memory.check_memory(EngineSpec(smollm2, "m", context=2048, streams=4))
    with pytest.raises(UserError, match=r"64 streams of 2048 tokens need .* Set use.streams to [1-9]"):
        memory.check_memory(EngineSpec(smollm2, "m", context=2048, streams=64))


def test_stopping_waits_for_an_answer_in_flight(smollm2: Path, tmp_path: Path) -> None:
    spec = EngineSpec(smollm2, "m", context=256, streams=1)
    live = Live([Deployment("m", "llamacpp", spec, {"m": Route()})], tmp_path, lambda _: None).start()
    pid, url, got = live.supervisor.pid, live.gateway(), list[str]()

    def read() -> None:
        stream = client(url).chat.completions.create(
            model="m",
            messages=HI,
            max_tokens=20,
            stream=True,
            extra_body={"ignore_eos": True},  # type: ignore[arg-type]
        )
        got.extend(c.choices[0].finish_reason or "" for c in stream if c.choices)

    reader = threading.Thread(target=read)
    reader.start()
    while not got and reader.is_alive():
        time.sleep(0.01)
    live.stop(10)
    reader.join()
    assert got[-1] == "length" and not Path(f"/proc/{pid}").exists()
    assert asyncio.run(_refused(url))


async def _refused(url: str) -> bool:
    try:
        await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except ConnectionRefusedError:
        return True
    return False
