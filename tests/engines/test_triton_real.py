"""Triton for real, under the supervisor: the tritonserver of the nvidia-pytriton wheel with llama.cpp inside.

One server for the tests of the module; the tests that kill or start another come last.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
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
from pilothouse.serve.engines import triton
from pilothouse.serve.engines._triton_home import find_triton
from pilothouse.serve.supervisor import Supervisor

HI: list[Any] = [{"role": "user", "content": "Who are you?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="session")
def triton_here() -> None:
    """Skips with the engine's own reason where no Triton can run."""
    check = triton.create().check()
    if not check.runs:
        pytest.skip(f"{check.reason}. Install: {check.install}")


pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("triton_here")]


@dataclass
class Running:
    """An engine that answers, the loop of its supervisor, its folder."""

    supervisor: Supervisor
    folder: Path
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.supervisor.url, "desk", self.supervisor.api_key)

    @property
    def official(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.supervisor.url}/v1", api_key=self.supervisor.api_key, max_retries=0)

    @property
    def addresses(self) -> tuple[str, str]:
        """host:port of Triton's own HTTP and gRPC services."""
        found = re.findall(r"http http://(\S+), grpc (\S+),", (self.folder / "engine.log").read_text())[-1]
        return str(found[0]), str(found[1])

    @property
    def model_key(self) -> str:
        """The secret that the model asks for; only its own processes have it."""
        given = Path(f"/proc/{self.supervisor.pid}/environ").read_bytes().split(b"\0")
        return next(e for e in given if e.startswith(b"PILOTHOUSE_ENGINE_KEY=")).partition(b"=")[2].decode()

    def text(self, adapter: str | None, **body: Any) -> str:
        answer = self.run(chat(self.endpoint, HI, max_tokens=16, **self.supervisor.fields(adapter), **body))
        assert not answer.error, answer.error
        return str(answer.text)

    def metrics(self) -> str:
        status, body = get(self.supervisor.url.removeprefix("http://"), "/metrics", self.supervisor.api_key)
        assert status == 200
        return body

    def gauges(self) -> Gauges:
        return triton.create().gauges(self.metrics())

    def settles(self, running: float, within_s: float) -> float:
        """Seconds until so many requests run."""
        began = time.monotonic()
        while self.gauges().running != running:
            assert time.monotonic() - began < within_s, self.gauges()
            time.sleep(0.02)
        return time.monotonic() - began


def get(address: str, path: str, key: str = "", body: Any = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=30)
    head = {"authorization": f"Bearer {key}"} if key else {}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), head)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def noise(folder: Path, name: str, seed: int) -> Path:
    """A GGUF adapter that changes every answer."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    rng = np.random.default_rng(seed)
    for layer in range(10, 20):
        weight = f"blk.{layer}.ffn_down.weight"
        writer.add_tensor(f"{weight}.lora_a", rng.normal(0, 0.2, (4, 1536)).astype(np.float32))
        writer.add_tensor(f"{weight}.lora_b", rng.normal(0, 0.2, (576, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def started(spec: EngineSpec, folder: Path) -> Iterator[Running]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        supervisor = Supervisor(triton.create(), spec, folder, print)
        began = time.monotonic()
        runner.run(supervisor.start())
        print(f"\nTriton answered after {time.monotonic() - began:.1f} s")
        yield Running(supervisor, folder, runner.run)
        runner.run(supervisor.stop())


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Streams over gRPC; two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    adapters = (("a", noise(folder, "a", 0)), ("b", noise(folder, "b", 1)))
    spec = EngineSpec(smollm2, "desk", adapters, context=512, streams=8)
    yield from started(spec, tmp_path_factory.mktemp("engine"))


def group(leader: int | None) -> list[int]:
    """The engine's processes: its group's, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(leader: int, within_s: float = 5) -> bool:
    until = time.monotonic() + within_s
    while group(leader) and time.monotonic() < until:
        time.sleep(0.05)
    return not group(leader)


def left_behind(pid: int) -> list[Path]:
    return [p for parent in (Path("/dev/shm"), Path("/tmp")) for p in parent.glob(f"pilothouse-triton-{pid}-*")]


def test_it_answers_whole_and_streamed_with_usage_and_finish_reason(engine: Running) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = engine.official.chat.completions.create(**ask)
    chunks = list(engine.official.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text and text == whole.choices[0].message.content and whole.choices[0].finish_reason == "length"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage and whole.usage and whole.usage.completion_tokens == 12
    done = engine.official.completions.create(model="desk", prompt="Once upon a", max_tokens=4, temperature=0)
    assert done.choices[0].text and done.usage and done.usage.completion_tokens == 4


def test_several_answers_stops_logprobs_and_too_long_prompts(engine: Running) -> None:
    create = engine.official.chat.completions.create
    several = create(model="desk", messages=HI, max_tokens=8, n=3, temperature=1.5, seed=7)
    assert len({c.message.content for c in several.choices}) > 1
    free = create(model="desk", messages=HI, max_tokens=24, temperature=0).choices[0].message.content or ""
    word = free.split()[3]
    stopped = create(model="desk", messages=HI, max_tokens=24, temperature=0, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop" and (stopped.message.content or "") == free.partition(word)[0]
    scored = create(model="desk", messages=HI, max_tokens=3, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert scored and scored.content and len(scored.content) == 3 and len(scored.content[0].top_logprobs) == 2
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
            create(model="desk", messages=[{"role": "user", "content": "sea " * 2000}], stream=stream)


def test_structured_output_follows_the_schema_and_tools_are_not_dropped(engine: Running) -> None:
    create = engine.official.chat.completions.create
    schema: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    ask: list[Any] = [{"role": "user", "content": "Invent a person."}]
    made = create(model="desk", messages=ask, max_tokens=60, response_format=schema, temperature=0)
    person = json.loads(made.choices[0].message.content or "")
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)
    # This model's template has no tools: llama.cpp would leave them out in silence.
    assert "tools" not in triton.create().can(engine.supervisor.spec)
    tool: Any = {"type": "function", "function": {"name": "enter", "parameters": PERSON}}
    with pytest.raises(openai.BadRequestError, match="chat template of this model has no place"):
        create(model="desk", messages=ask, max_tokens=8, tools=[tool])


def test_an_adapter_is_chosen_per_request_also_among_others_at_the_same_time(engine: Running) -> None:
    alone = {name: engine.text(name, temperature=0) for name in (None, "a", "b")}
    assert len(set(alone.values())) == 3
    names = [None, "a", "b"] * 2

    async def mixed() -> list[str]:
        asked = (
            chat(engine.endpoint, HI, max_tokens=16, temperature=0, **engine.supervisor.fields(name)) for name in names
        )
        return [answer.text for answer in await asyncio.gather(*asked)]

    assert engine.run(mixed()) == [alone[name] for name in names]
    with pytest.raises(openai.NotFoundError, match=r"no adapter is called 'c'; loaded: a, b"):
        engine.official.chat.completions.create(model="desk", messages=HI, extra_body={"adapter": "c"})


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_at_once(engine: Running, stream: bool) -> None:
    async def leave() -> None:
        asked = [
            asyncio.ensure_future(
                chat(engine.endpoint, HI, max_tokens=400, stream=stream, ignore_eos=True, temperature=1)
            )
            for _ in range(3)
        ]
        await asyncio.to_thread(engine.settles, 3.0, 5)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    engine.settles(0.0, 5)
    engine.run(leave())
    print(f"free after {1e3 * engine.settles(0.0, 2):.0f} ms")


def test_tritons_own_http_ports_answer_those_who_have_the_key(engine: Running) -> None:
    address, _ = engine.addresses
    ask = {"text_input": "Once upon a", "sampling_parameters": '{"max_tokens": 5, "temperature": 0}'}
    status, said = get(address, "/v2/models/desk/generate", body=ask)
    assert status >= 400 and "[401]" in said
    ask["pilothouse_key"] = engine.model_key
    status, said = get(address, "/v2/models/desk/generate", body=ask)
    whole = json.loads(said)
    assert status == 200 and whole["finish_reason"] == "length" and whole["num_output_tokens"] == 5
    # the same by Triton's request parameters, streamed
    more = {"text_input": "Once upon a", "stream": True, "parameters": {"max_tokens": 5, "temperature": 0.0}}
    status, said = get(address, "/v2/models/desk/generate_stream", body=more | {"pilothouse_key": engine.model_key})
    events = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if line]
    assert len(events) > 3 and "".join(e["text_output"] for e in events) == whole["text_output"]
    assert [e["finish_reason"] for e in events] == [""] * (len(events) - 1) + ["length"]
    assert events[-1]["num_input_tokens"] == whole["num_input_tokens"] > 0
    status, said = get(address, "/v2/models/desk/config")
    assert status == 200 and json.loads(said)["model_transaction_policy"]["decoupled"]
    status, _ = get(address, "/v2/logging", body={"log_verbose_level": 9})
    assert status >= 400


TRITONS_CLIENT = """
import queue, sys
import numpy as np
import tritonclient.grpc as g
address, key = sys.argv[1:]
answers = queue.Queue()
client = g.InferenceServerClient(address)
client.start_stream(lambda result, error: answers.put((result, error)))
text = g.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([b"Once upon a"], dtype=object))
sampling = g.InferInput("sampling_parameters", [1], "BYTES")
sampling.set_data_from_numpy(np.array([b'{"max_tokens": 5, "temperature": 0}'], dtype=object))
stream = g.InferInput("stream", [1], "BOOL")
stream.set_data_from_numpy(np.array([True]))
client.async_stream_infer(
    "desk", [text, sampling, stream], parameters={"pilothouse_key": key}, enable_empty_final_response=True
)
n = 0
while True:
    result, error = answers.get(timeout=30)
    assert error is None, error
    n += 1
    if result.get_response().parameters["triton_final_response"].bool_param:
        break
print(n, result.as_numpy("finish_reason")[0].decode(), result.as_numpy("num_output_tokens")[0])
client.stop_stream()
"""


def test_tritons_own_grpc_client_streams_from_the_model(engine: Running) -> None:
    python, (_, address) = find_triton().python, engine.addresses
    argv = [str(python), "-c", TRITONS_CLIENT, address, engine.model_key]
    n, finish, tokens = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert int(n) > 3 and (finish, tokens) == ("length", "5")


def test_tritons_metrics_are_read(engine: Running) -> None:
    text = engine.metrics()
    assert re.search(r'^nv_inference_request_success\{model="desk",version="1"\} [1-9]', text, re.M)
    gauges = engine.gauges()
    assert (gauges.running, gauges.waiting) == (0.0, 0.0)

    async def loaded() -> Gauges:
        jobs = [Job(HI, 60, {"ignore_eos": True}) for _ in range(11)]
        asked = asyncio.ensure_future(chat_many(engine.endpoint, jobs, concurrency=11))
        await asyncio.to_thread(engine.settles, 8.0, 10)
        seen = await asyncio.to_thread(engine.gauges)
        assert not [a.error for a in await asked if a.error]
        return seen

    seen = engine.run(loaded())
    assert (seen.running, seen.waiting) == (8.0, 3.0)


def test_tokens_a_second(engine: Running) -> None:
    """A figure to read, not a bound: this machine may be busy."""
    question = "Tell story {} about " + "a ship on the sea " * 10
    for streams in (1, 4, 8):
        body = {"stream": True, "ignore_eos": True}
        jobs = [Job([{"role": "user", "content": question.format(i)}], 32, body) for i in range(max(3, streams))]
        began = time.monotonic()
        answers = engine.run(chat_many(engine.endpoint, jobs, concurrency=streams))
        took = time.monotonic() - began
        assert not [a.error for a in answers if a.error]
        print(f"{streams} streams: {sum(a.completion_tokens or 0 for a in answers) / took:.0f} tok/s")


def test_a_running_triton_can_be_attached_to(engine: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", engine.model_key)
    http_address, grpc_address = engine.addresses
    expected = engine.text("a", temperature=0)
    for more in ({}, {"grpc_url": grpc_address}):
        options = {"url": f"http://{http_address}", "key_env": "THEIR_KEY", **more}
        spec = EngineSpec(engine.supervisor.spec.model, "desk", engine.supervisor.spec.adapters, options=options)
        folder = tmp_path / f"front{len(more)}"

        async def attached(spec: EngineSpec = spec, folder: Path = folder) -> str:
            front = Supervisor(triton.create(), spec, folder, print)
            await front.start()
            try:
                endpoint = Endpoint(front.url, "desk", front.api_key)
                answer = await chat(endpoint, HI, max_tokens=16, temperature=0, stream=True, **front.fields("a"))
                return answer.text or answer.error
            finally:
                await front.stop()

        assert engine.run(attached()) == expected


def test_http_is_the_other_way_to_the_same_model(engine: Running, smollm2: Path, tmp_path: Path) -> None:
    expected = engine.text(None, temperature=0)
    spec = EngineSpec(smollm2, "desk", context=512, streams=2, options={"transport": "http", "threads": 1})
    for other in started(spec, tmp_path):
        assert other.text(None, temperature=0) == other.text(None, temperature=0, stream=True) == expected

        async def leave(endpoint: Endpoint = other.endpoint, settles: Any = other.settles) -> None:
            asked = asyncio.ensure_future(chat(endpoint, HI, max_tokens=400, stream=True, ignore_eos=True))
            await asyncio.to_thread(settles, 1.0, 5)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

        other.run(leave())
        other.settles(0.0, 2)


def test_a_file_that_is_no_model_or_no_adapter_is_one_line_with_the_reason(smollm2: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF but no adapter" * 1000)
    spec = EngineSpec(smollm2, "desk", (("a", bad),), context=256, streams=1, options={"threads": 1})

    async def start() -> None:
        await Supervisor(triton.create(), spec, tmp_path / "engine", print).start()

    with asyncio.Runner() as runner, pytest.raises(UserError) as e:
        runner.run(start())
    assert "its log says nothing" not in e.value.line() and "adapter" in e.value.line()
    print(e.value.line())


def test_killed_it_comes_back_and_stopped_it_leaves_nothing(smollm2: Path, tmp_path: Path) -> None:
    spec = EngineSpec(smollm2, "desk", context=256, streams=1, options={"threads": 1})
    for victim in ("ours", "tritonserver"):
        for other in started(spec, tmp_path / victim):
            first = other.supervisor.pid
            assert first and len(group(first)) == 3  # ours, tritonserver, its Python stub
            if victim == "ours":
                os.kill(first, signal.SIGKILL)
            else:
                names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in group(first)}
                os.kill(next(pid for pid, name in names.items() if name == "tritonserver"), signal.SIGKILL)
            assert gone(first)

            async def again(supervisor: Supervisor = other.supervisor) -> None:
                async with asyncio.timeout(60):
                    while not supervisor.restarts:
                        await asyncio.sleep(0.1)

            other.run(again())
            assert other.text(None)
            second = other.supervisor.pid
            assert second and second != first and not left_behind(first)
        assert gone(second) and not left_behind(second)
