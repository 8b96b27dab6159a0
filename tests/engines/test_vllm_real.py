"""vLLM for real, under the supervisor: it does what its engine says it can, and leaves nothing behind.

One engine for all tests of the module (half a minute to start); the tests that kill come last.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
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
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.engines import vllm
from pilothouse.serve.supervisor import Supervisor

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_here")]
HI: list[Any] = [{"role": "user", "content": "Who are you?"}]
LONG: list[Any] = [{"role": "user", "content": "Tell of the sea, its ships and their captains. " * 4}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Running:
    """An engine that answers, the loop of its supervisor, and what was said meanwhile."""

    supervisor: Supervisor
    said: list[str]
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.supervisor.url, "desk", self.supervisor.api_key)

    @property
    def official(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.supervisor.url}/v1", api_key=self.supervisor.api_key, max_retries=0)

    def text(self, adapter: str | None, **body: Any) -> str:
        answer = self.run(chat(self.endpoint, HI, max_tokens=16, **self.supervisor.fields(adapter), **body))
        assert not answer.error, answer.error
        return str(answer.text)


@pytest.fixture(scope="module")
def adapter(make_adapter: Any) -> Path:
    return Path(make_adapter("one", 8, 1))


@pytest.fixture(scope="module")
def engine(smollm2_folder: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Deployment and adapter share their name, as those of a project do."""
    options = {"tool_call_parser": "hermes"}
    spec = EngineSpec(smollm2_folder, "desk", (("desk", adapter),), context=1024, streams=8, options=options)
    said: list[str] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        supervisor = Supervisor(vllm.create(), spec, tmp_path_factory.mktemp("engine"), said.append)
        began = time.monotonic()
        runner.run(supervisor.start())
        print(f"\nvLLM answered after {time.monotonic() - began:.1f} s")
        yield Running(supervisor, said, runner.run)
        runner.run(supervisor.stop())


def group(engine: int | None) -> list[int]:
    """The engine's processes: its group's, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == engine and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(engine: int, within_s: float = 15) -> bool:
    until = time.monotonic() + within_s
    while group(engine) and time.monotonic() < until:
        time.sleep(0.1)
    return not group(engine)


def test_it_answers_whole_and_streamed_with_its_usage(engine: Running) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = engine.official.chat.completions.create(**ask)
    chunks = list(engine.official.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text and text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and whole.usage and whole.usage.completion_tokens > 0


def test_several_answers_stops_and_too_long_prompts(engine: Running) -> None:
    create = engine.official.chat.completions.create
    several = create(model="desk", messages=LONG, max_tokens=8, n=3, temperature=1.5, seed=7)
    assert len({c.message.content for c in several.choices}) > 1
    free = create(model="desk", messages=HI, max_tokens=24, temperature=0).choices[0].message.content or ""
    word = free.split()[3]
    stopped = create(model="desk", messages=HI, max_tokens=24, temperature=0, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop" and (stopped.message.content or "") == free.partition(word)[0]
    with pytest.raises(openai.BadRequestError, match="1024"):
        create(model="desk", messages=[{"role": "user", "content": "sea " * 2000}], max_tokens=8)


def test_structured_output_follows_the_schema(engine: Running) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    ask: list[Any] = [{"role": "user", "content": "Invent a person."}]
    made = engine.official.chat.completions.create(model="desk", messages=ask, max_tokens=60, response_format=schema)
    person = json.loads(made.choices[0].message.content or "")
    assert set(person) == {"name", "age"} and isinstance(person["age"], int) and len(person["name"]) <= 12


def test_a_tool_that_is_asked_for_is_called(engine: Running) -> None:
    tool: Any = {"type": "function", "function": {"name": "enter", "parameters": PERSON, "strict": True}}
    choice: Any = {"type": "function", "function": {"name": "enter"}}
    made = engine.official.chat.completions.create(
        model="desk",
        messages=[{"role": "user", "content": "Enter Ada, 36 years."}],
        max_tokens=200,
        temperature=0,
        tools=[tool],
        tool_choice=choice,
    )
    (call,) = made.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "enter"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}


def test_logprobs_are_those_of_the_trained_model_with_and_without_adapter(
    engine: Running, smollm2_folder: Path, adapter: Path
) -> None:
    """The same prompt through transformers and PEFT in fp32; vLLM serves in bf16."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    ids = tokenizer.apply_chat_template(HI, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32), adapter
    )
    for name in ("desk", None):
        with torch.no_grad():
            if name is None:
                with model.disable_adapter():
                    logits = model(**ids).logits[0, -1]
            else:
                logits = model(**ids).logits[0, -1]
        wanted = torch.log_softmax(logits, -1)
        answer = engine.run(
            chat(engine.endpoint, HI, max_tokens=1, logprobs=True, top_logprobs=5, **engine.supervisor.fields(name))
        )
        first = answer.tokens[0]
        (token,) = tokenizer.encode(first.token, add_special_tokens=False)
        assert token == int(logits.argmax())
        print(f"{name}: {first.token!r} {first.logprob:.3f} here, {float(wanted[token]):.3f} in fp32")
        assert math.isclose(first.logprob, float(wanted[token]), abs_tol=0.15)


def test_an_adapter_comes_and_goes_while_it_answers(engine: Running, make_adapter: Any) -> None:
    supervisor = engine.supervisor
    pid, base, first = supervisor.pid, engine.text(None), engine.text("desk")
    assert base != first
    began = time.monotonic()
    engine.run(supervisor.load_adapter("late", make_adapter("two", 8, 2)))
    print(f"loaded in {time.monotonic() - began:.2f} s")
    late = engine.text("late")
    assert len({base, first, late}) == 3 and engine.text("desk") == first
    # The same name again: other weights, at once.
    engine.run(supervisor.load_adapter("late", make_adapter("three", 8, 3)))
    assert engine.text("late") not in (base, first, late)
    engine.run(supervisor.unload_adapter("late"))
    answer = engine.run(chat(engine.endpoint, HI, max_tokens=1, **supervisor.fields("late")))
    assert answer.status == 404 and engine.text("desk") == first
    assert supervisor.pid == pid and supervisor.restarts == 0


def test_an_adapter_that_does_not_fit_is_refused_in_words(engine: Running, make_adapter: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank 32 is greater than max_lora_rank 8"):
        engine.run(engine.supervisor.load_adapter("large", make_adapter("large", 32, 4)))
    with pytest.raises(UserError, match="cannot load adapter 'empty'"):
        engine.run(engine.supervisor.load_adapter("empty", tmp_path))
    assert [name for name, _ in engine.supervisor.spec.adapters] == ["desk"]


def test_its_figures_show_the_load(engine: Running) -> None:
    async def seen() -> Any:
        jobs = [Job(LONG, 200, {"ignore_eos": True, "seed": i}) for i in range(10)]
        work = asyncio.ensure_future(chat_many(engine.endpoint, jobs, concurrency=10))
        highest = engine.supervisor.gauges
        while not work.done():
            await asyncio.sleep(0.2)
            highest = max(highest, engine.supervisor.gauges, key=lambda g: g.running or 0)
        assert not any(a.error for a in await work)
        return highest

    gauges = engine.run(seen())
    print(gauges)
    assert gauges.running == 8 and gauges.waiting == 2  # use.streams at a time
    assert 0 < (gauges.kv_used or 0) <= 1


def test_streams_share_the_work(engine: Running) -> None:
    """Continuous batching: eight streams give at least twice the tokens of one (five times were seen)."""

    def speed(streams: int) -> float:
        jobs = [Job(LONG, 32, {"ignore_eos": True, "stream": True}) for _ in range(2 * streams)]
        began = time.monotonic()
        answers = engine.run(chat_many(engine.endpoint, jobs, concurrency=streams))
        assert not any(a.error for a in answers)
        return 32 * len(jobs) / (time.monotonic() - began)

    speed(1)
    one, eight = speed(1), speed(8)
    print(f"{one:.0f} tok/s at 1 stream, {eight:.0f} at 8")
    assert eight > 2 * one


def test_no_path_leads_round_the_key(engine: Running) -> None:
    ask = {"model": "desk", "messages": HI, "max_tokens": 1}
    adapter = {"name": "x", "src": "/tmp"}
    stranger = openai.OpenAI(base_url=engine.supervisor.url, api_key="guessed", max_retries=0)
    for path, body in (
        ("/v1/chat/completions", ask),
        ("/invocations", ask),
        ("/adapters", adapter),
        ("/tokenize", ask),
    ):
        with pytest.raises(openai.AuthenticationError):
            stranger.post(path, body=body, cast_to=object)
    assert engine.official.post(f"{engine.supervisor.url}/invocations", body=ask, cast_to=object)


def test_the_reason_of_a_failed_start_is_vllms_own(smollm2_folder: Path, tmp_path: Path) -> None:
    spec = EngineSpec(smollm2_folder, "desk", context=20_000, streams=1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        with pytest.raises(UserError, match=r"max_model_len \(20000\) is greater than .*=8192"):
            runner.run(Supervisor(vllm.create(), spec, tmp_path, print).start())


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
validate_parsed_serve_args(parsed)
print(json.dumps({name: value for name, value in vars(parsed).items()}, default=str))
"""


def test_every_option_is_a_word_that_vllms_own_parser_takes(smollm2_folder: Path, adapter: Path) -> None:
    options: dict[str, Any] = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "data_parallel_size": 4,
        "quantization": "fp8",
        "dtype": "bfloat16",
        "kv_cache_dtype": "fp8",
        "kv_cache_gb": 0.6,
        "cpu_offload_gb": 1.5,
        "block_size": 64,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 7,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 4},
        "enforce_eager": True,
        "load_format": "safetensors",
        "tool_call_parser": "hermes",
        "enable_auto_tool_choice": True,
        "reasoning_parser": "qwen3",
        "runner": "generate",
        "max_loras": 5,
        "max_lora_rank": 20,
        "max_cpu_loras": 9,
        "max_logprobs": 10,
        "seed": 42,
        "trust_remote_code": True,
        "more": ["--stream-interval", "4"],
    }
    unsaid = {option.name for option in vllm.OPTIONS} - set(options)
    assert unsaid == {"python", "cpu_threads", "gpu_memory_utilization", "chat_template"}
    spec = EngineSpec(smollm2_folder, "desk", (("desk", adapter),), context=1024, options=options)
    launch = vllm.create().launch(spec, 4711)
    done = subprocess.run(
        [launch.argv[0], "-c", PARSE, *launch.argv[3:]],
        capture_output=True,
        text=True,
        env={**os.environ, **launch.env},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    same = set(options) - {"kv_cache_gb", "more", "max_lora_rank"}
    assert {name: got[name] for name in same} == {name: options[name] for name in same}
    assert (got["kv_cache_memory_bytes"], got["max_lora_rank"], got["stream_interval"]) == (100_000_000, 32, 4)
    assert got["served_model_name"] == ["desk"] and got["max_model_len"] == 1024


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_kill_9_of_any_of_its_processes_ends_all_and_it_answers_again(engine: Running, victim: str) -> None:
    supervisor = engine.supervisor
    old, restarts = supervisor.pid, supervisor.restarts
    assert old is not None
    assert len(group(old)) >= 3, "server, engine core, worker"
    target = old if victim == "server" else max(group(old))

    async def scene() -> None:
        os.kill(target, signal.SIGKILL)
        until = time.monotonic() + 240
        while supervisor.restarts == restarts and time.monotonic() < until:
            await asyncio.sleep(0.2)

    engine.run(scene())
    assert supervisor.restarts == restarts + 1 and supervisor.pid != old and not group(old)
    said = {"server": "killed by SIGKILL", "worker": "one of its processes was killed"}[victim]
    assert any(said in line for line in engine.said[-2:]), engine.said
    assert engine.text("desk") != engine.text(None)


CHILD = """
import sys, time
from pathlib import Path
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.run import Live

model, adapter, folder = map(Path, sys.argv[1:])
spec = EngineSpec(model, "desk", (("desk", adapter),), context=256, streams=2)
routes = {"desk": Route("desk"), "desk-base": Route()}
live = Live([Deployment("desk", "vllm", spec, routes)], folder, lambda line: print(line, file=sys.stderr)).start()
print(live.supervisor.pid, live.gateway(), flush=True)
time.sleep(600)
"""


def test_behind_the_gateway_and_nothing_outlives_a_killed_pilothouse(
    smollm2_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", CHILD, str(smollm2_folder), str(adapter), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            told = re.fullmatch(r"(\d+) (\S+)\n", parent.stdout.readline())
            assert told, "it did not start"
            pid, client = int(told[1]), openai.OpenAI(base_url=f"{told[2]}/v1", api_key="none", max_retries=0)
            texts = [
                client.chat.completions.create(model=name, messages=HI, max_tokens=12, temperature=0)
                for name in ("desk", "desk-base")
            ]
            assert [t.model for t in texts] == ["desk", "desk-base"]
            assert texts[0].choices[0].message.content != texts[1].choices[0].message.content
            assert len(group(pid)) >= 3
        finally:
            parent.kill()
    assert gone(pid)
