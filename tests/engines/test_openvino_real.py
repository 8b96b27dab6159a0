"""OpenVINO GenAI for real, under the supervisor. One engine for all tests of the module; those that kill come last."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop

from pilothouse.core.client import Job, chat, chat_many
from pilothouse.core.errors import UserError
from pilothouse.core.records import Endpoint
from pilothouse.serve.base import EngineSpec, Gauges
from pilothouse.serve.engines import llamacpp, openvino
from pilothouse.serve.supervisor import Supervisor

HI: list[Any] = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="session")
def openvino_here() -> None:
    """Skips with the engine's own reason where OpenVINO is not."""
    check = openvino.create().check()
    if not check.runs:
        pytest.skip(f"{check.reason}. Install: {check.install}")


pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("openvino_here")]


@dataclass
class Running:
    """An engine that answers, and the loop of its supervisor."""

    supervisor: Supervisor
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.supervisor.url, "desk", self.supervisor.api_key)

    @property
    def official(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.supervisor.url}/v1", api_key=self.supervisor.api_key, max_retries=0)

    def gauges(self) -> Gauges:
        connection = http.client.HTTPConnection(self.supervisor.url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {self.supervisor.api_key}"})
        text = connection.getresponse().read().decode()
        connection.close()
        return openvino.create().gauges(text)

    def settles(self, running: float, within_s: float) -> float:
        """Seconds until so many requests run."""
        began = time.monotonic()
        while self.gauges().running != running:
            assert time.monotonic() - began < within_s, self.gauges()
            time.sleep(0.02)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    spec = EngineSpec(smollm2, "desk", context=256, streams=16)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        supervisor = Supervisor(openvino.create(), spec, tmp_path_factory.mktemp("engine"), print)
        began = time.monotonic()
        runner.run(supervisor.start())
        print(f"\nOpenVINO answered after {time.monotonic() - began:.1f} s")
        yield Running(supervisor, runner.run)
        runner.run(supervisor.stop())


def test_it_answers_whole_and_streamed_with_usage_and_finish_reason(engine: Running) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = engine.official.chat.completions.create(**ask)
    chunks = list(engine.official.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text and text == whole.choices[0].message.content and whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage and whole.usage and whole.usage.completion_tokens == 12
    done = engine.official.completions.create(model="desk", prompt="Once upon a", max_tokens=4, temperature=0)
    assert done.choices[0].text and done.usage and done.usage.completion_tokens == 4
    ends = engine.official.chat.completions.create(
        model="desk", messages=[{"role": "user", "content": "Say only: yes"}], temperature=0
    )
    assert ends.choices[0].finish_reason == "stop" and "<|im_end|>" not in (ends.choices[0].message.content or "")


def test_several_answers_seeds_stops_and_the_whole_context(engine: Running) -> None:
    create = engine.official.chat.completions.create
    hot: dict[str, Any] = {"model": "desk", "messages": HI, "max_tokens": 8, "temperature": 1.5}
    several = create(**hot, n=3, seed=7)
    assert len({c.message.content for c in several.choices}) == 3
    assert create(**hot).choices[0].message.content != create(**hot).choices[0].message.content
    free = create(model="desk", messages=HI, max_tokens=24, temperature=0).choices[0].message.content or ""
    word = free.split()[3]
    stopped = create(model="desk", messages=HI, max_tokens=24, temperature=0, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop" and (stopped.message.content or "") == free.partition(word)[0]
    full = create(model="desk", messages=HI, temperature=0, extra_body={"ignore_eos": True})
    assert full.usage and full.usage.total_tokens == 256 and full.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="exceeds the context of 256"):
        create(model="desk", messages=[{"role": "user", "content": "sea " * 300}])


def test_what_it_has_not_is_refused(engine: Running) -> None:
    create = engine.official.chat.completions.create
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"logprobs": True}, "has no logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "has no tools"),
        ({"response_format": {"type": "json_object"}}, "has no response_format"),
        ({"temperature": -1}, "not possible.*temperature"),
        ({"temperature": "warm"}, "not possible"),
        ({"top_p": 7}, "not possible.*top_p"),
    ]
    for more, says in wrong:
        with pytest.raises(openai.BadRequestError, match=says):
            create(**({"model": "desk", "messages": HI, "max_tokens": 4} | more))
    assert create(model="desk", messages=HI, max_tokens=2, response_format={"type": "text"}).choices


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_at_once(engine: Running, stream: bool) -> None:
    async def leave() -> None:
        asked = [
            asyncio.ensure_future(chat(engine.endpoint, HI, max_tokens=200, stream=stream, ignore_eos=True))
            for _ in range(4)
        ]
        await asyncio.to_thread(engine.settles, 4.0, 5)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    engine.settles(0.0, 5)
    engine.run(leave())
    print(f"free after {1e3 * engine.settles(0.0, 2):.0f} ms")


def test_tokens_a_second_beside_llamacpp(engine: Running, smollm2: Path, tmp_path: Path) -> None:
    """Figures to read, not bounds: this machine may be busy. Rounds alternate."""
    question = "{} tell story {} about " + "a ship on the sea " * 10
    spec = EngineSpec(smollm2, "desk", context=256, streams=16)

    async def race() -> None:
        other = Supervisor(llamacpp.create(), spec, tmp_path, print)
        await other.start()
        try:
            for streams in (1, 4, 8, 16):
                line = []
                for supervisor in (engine.supervisor, other):
                    body = {"stream": True, "ignore_eos": True, "temperature": 0}
                    texts = [question.format(supervisor.url, i) for i in range(max(2, streams))]
                    jobs = [Job([{"role": "user", "content": text}], 32, body) for text in texts]
                    endpoint = Endpoint(supervisor.url, "desk", supervisor.api_key)
                    began = time.monotonic()
                    answers = await chat_many(endpoint, jobs, concurrency=streams)
                    took = time.monotonic() - began
                    assert not [a.error for a in answers if a.error]
                    line.append(sum(a.completion_tokens or 0 for a in answers) / took)
                print(f"{streams} streams: OpenVINO {line[0]:.0f}, llama.cpp {line[1]:.0f} tok/s")
        finally:
            await other.stop()

    engine.run(race())


def test_a_file_that_it_cannot_read_is_one_line_with_the_reason(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(openvino, "check_memory", lambda _: None)  # it would say so first
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model" * 1000)

    async def start() -> None:
        await Supervisor(openvino.create(), EngineSpec(bad, "desk"), tmp_path / "engine", print).start()

    with asyncio.Runner() as runner, pytest.raises(UserError, match="exit code 1") as e:
        runner.run(start())
    assert e.value.line().endswith("bad.gguf' with gguf_open")


def test_killed_it_comes_back(engine: Running) -> None:
    first = engine.supervisor.pid
    assert first
    os.kill(first, signal.SIGKILL)

    async def again() -> None:
        async with asyncio.timeout(60):
            while not engine.supervisor.restarts:
                await asyncio.sleep(0.1)

    engine.run(again())
    answer = engine.run(chat(engine.endpoint, HI, max_tokens=4))
    assert not answer.error and engine.supervisor.pid != first
