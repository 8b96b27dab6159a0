"""llama.cpp for real: what it is launched with arrives, and everything it says it can do, it does."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import openai
import pytest

from pilothouse.core.errors import UserError
from pilothouse.serve.base import EngineSpec, Launch
from pilothouse.serve.engines import llamacpp
from pilothouse.serve.ports import free_port
from tests.serve.processes import running

pytestmark = pytest.mark.model
HI: list[Any] = [{"role": "user", "content": "Say hello."}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def noise_adapter(path: Path, seed: int) -> Path:
    """An adapter for SmolLM2 that changes every answer."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    rng = np.random.default_rng(seed)
    for layer in range(10, 20):
        name = f"blk.{layer}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", rng.normal(0, 0.2, (4, 1536)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.normal(0, 0.2, (576, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_template(model: Path, path: Path, template: str) -> Path:
    """The same model with another chat template."""
    pytest.importorskip("gguf")
    done = subprocess.run(
        [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", template, str(model), str(path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def spec(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineSpec:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = tuple((name, noise_adapter(folder / f"{name}.gguf", seed)) for seed, name in enumerate(("one", "two")))
    return EngineSpec(smollm2, "desk", adapters, context=768, streams=2, options={"threads": 1, "embeddings": "mean"})


@pytest.fixture(scope="module")
def launch(spec: EngineSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    made = llamacpp.create().launch(spec, free_port())
    with running(made, tmp_path_factory.mktemp("log") / "engine.log"):
        yield made


def client(launch: Launch) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{launch.url}/v1", api_key=launch.api_key, max_retries=0, timeout=60)


def says(launch: Launch, spec: EngineSpec, adapter: str | None, **fields: Any) -> str:
    body = {"model": "desk", "messages": HI, "temperature": 0, "max_tokens": 12, **fields}
    chosen = llamacpp.create().fields(adapter, spec)
    return client(launch).chat.completions.create(**body, extra_body=chosen).choices[0].message.content or ""


def test_each_of_several_adapters_answers_the_requests_that_name_it(launch: Launch, spec: EngineSpec) -> None:
    answers = {name: says(launch, spec, name) for name in (None, "one", "two")}
    assert len(set(answers.values())) == 3
    for name in ("two", None, "one", None, "two"):  # and nothing of one is left in the other
        assert says(launch, spec, name) == answers[name]


def test_a_json_schema_is_kept(launch: Launch, spec: EngineSpec) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    person = json.loads(says(launch, spec, None, response_format=wanted, max_tokens=60))
    assert set(person) == {"name", "age"} and isinstance(person["age"], int)


def test_a_grammar_is_kept(launch: Launch, spec: EngineSpec) -> None:
    answer = client(launch).chat.completions.create(
        model="desk",
        messages=HI,
        max_tokens=4,
        extra_body={"grammar": 'root ::= "yes" | "no"', **llamacpp.create().fields(None, spec)},
    )
    assert answer.choices[0].message.content in ("yes", "no")


def test_logprobs_are_those_of_the_tokens_of_the_answer(launch: Launch, spec: EngineSpec) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": HI, "temperature": 0, "max_tokens": 6}
    ask |= {"logprobs": True, "top_logprobs": 3, "extra_body": llamacpp.create().fields(None, spec)}
    whole = client(launch).chat.completions.create(**ask).choices[0]
    assert whole.logprobs and whole.logprobs.content
    assert "".join(t.token for t in whole.logprobs.content) == whole.message.content
    for token in whole.logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert math.isclose(token.logprob, token.top_logprobs[0].logprob, abs_tol=1e-3)  # greedy: the best is taken
    chunks = [c.choices[0] for c in client(launch).chat.completions.create(**ask, stream=True) if c.choices]
    tokens = [t.token for c in chunks if c.logprobs and c.logprobs.content for t in c.logprobs.content]
    assert "".join(tokens) == whole.message.content


NAMED = {**PERSON, "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"]}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Find a person.", "parameters": NAMED}}


def test_tools_are_left_out_by_this_models_template_so_the_engine_does_not_claim_them(
    launch: Launch, spec: EngineSpec
) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": HI, "temperature": 0, "max_tokens": 8, "tools": [TOOL]}
    ask |= {"tool_choice": "required", "extra_body": llamacpp.create().fields(None, spec)}
    choice = client(launch).chat.completions.create(**ask).choices[0]
    assert not choice.message.tool_calls and choice.message.content == says(launch, spec, None, max_tokens=8)
    assert "tools" not in llamacpp.create().can(spec)
    with pytest.raises(UserError, match="cannot do what this project needs: tools"):
        llamacpp.create().launch(replace(spec, needs=frozenset({"tools"})), 1)


def test_with_a_template_that_has_a_place_for_tools_they_reach_the_prompt(spec: EngineSpec, tmp_path: Path) -> None:
    # A call itself is beyond a model of 135M parameters: llama.cpp lets it talk as long as it likes before one.
    template = (
        "{%- if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{%- endif %}{%- for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}<|im_start|>assistant\n"
    )
    model = with_template(spec.model, tmp_path / "tools.gguf", template)
    spec = replace(spec, model=model, adapters=(), needs=frozenset({"tools"}), options={"threads": 1})
    made = llamacpp.create().launch(spec, free_port())
    with running(made, tmp_path / "engine.log"):
        ask = Request(f"{made.url}/apply-template", json.dumps({"messages": HI, "tools": [TOOL]}).encode())
        ask.add_header("authorization", f"Bearer {made.api_key}")
        with urlopen(ask) as answer:
            assert "look_up" in json.load(answer)["prompt"]


def test_a_prompt_seen_before_is_not_read_again(launch: Launch, spec: EngineSpec) -> None:
    ask: dict[str, Any] = {"model": "desk", "messages": [{"role": "user", "content": "Count: " + "one two " * 40}]}
    ask |= {"max_tokens": 1, "extra_body": llamacpp.create().fields("one", spec)}
    read = []
    for _ in range(3):  # two slots: the third request, at the latest, meets a slot that knows it
        usage = client(launch).chat.completions.create(**ask).usage
        assert usage and usage.prompt_tokens_details
        read.append(usage.prompt_tokens - (usage.prompt_tokens_details.cached_tokens or 0))
    assert read[-1] < read[0] / 10


def test_embeddings_beside_chat_and_nearer_for_like_than_for_unlike(launch: Launch, spec: EngineSpec) -> None:
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Quarterly revenue fell by nine percent."]
    made = client(launch).embeddings.create(model="desk", input=texts)
    cat, kitten, revenue = ([float(x) for x in item.embedding] for item in made.data)
    assert len(cat) == 576 and math.isclose(sum(x * x for x in cat), 1, abs_tol=1e-3)
    assert _dot(cat, kitten) > _dot(cat, revenue)
    assert says(launch, spec, None)
    long = client(launch).embeddings.create(model="desk", input="word " * 700)  # more than llama.cpp's own 512 at once
    assert long.usage.prompt_tokens > 600 and len(long.data[0].embedding) == 576


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_without_the_option_embeddings_are_refused_by_name(spec: EngineSpec, tmp_path: Path) -> None:
    plain = replace(spec, adapters=(), options={"threads": 1, "kv_type": "q8_0", "kv_unified": True, "batch": 256})
    plain = replace(plain, options={**plain.options, "prompt_cache_mb": 64, "ubatch": 128, "flash_attention": "on"})
    made = llamacpp.create().launch(plain, free_port())
    with running(made, tmp_path / "engine.log"):
        assert says(made, plain, None)  # every option of the list above is one that llama.cpp takes
        with pytest.raises(openai.APIStatusError, match="does not support embeddings"):
            client(made).embeddings.create(model="desk", input="x")


def test_a_running_server_is_attached_to_when_it_fits(
    launch: Launch, spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = llamacpp.create()
    monkeypatch.setenv("THEIR_KEY", launch.api_key)
    there = replace(spec, model=Path("gone"), options={"url": f"{launch.url}/v1", "key_env": "THEIR_KEY"})
    attached = engine.launch(replace(there, needs=frozenset({"embeddings"})), 1)
    assert (attached.argv, attached.url, attached.api_key) == ((), launch.url, launch.api_key)
    for wrong, says_ in (
        (replace(there, streams=3), r"2 requests at a time, 3 are wanted.*--parallel 3"),
        (replace(there, context=4096), r"768 tokens there, 4096 are wanted"),
        (replace(there, adapters=spec.adapters[::-1]), r"has the adapters one, two; wanted.*two.gguf, one.gguf"),
        (replace(there, adapters=()), r"wanted, in this order: none.*without --lora"),
        (replace(there, options={"url": launch.url}), r"/props answers 401.*key_env"),
        (replace(there, options={**there.options, "threads": 1}), "'threads' has no effect with option 'url'"),
        (replace(there, options={"url": "http://127.0.0.1:1"}), "does not answer.*Start the engine there first"),
    ):
        with pytest.raises(UserError, match=says_):
            engine.launch(wrong, 1)


@pytest.mark.engine
@pytest.mark.skipif(
    not (shutil.which("llama-server") or os.environ.get("PILOTHOUSE_LLAMA_SERVER")),
    reason="no llama-server (PILOTHOUSE_LLAMA_SERVER names one)",
)
def test_a_llama_server_of_ones_own_answers_with_the_same_settings(spec: EngineSpec, tmp_path: Path) -> None:
    binary = os.environ.get("PILOTHOUSE_LLAMA_SERVER", "llama-server")
    own = replace(spec, options={**spec.options, "binary": binary})
    made = llamacpp.create().launch(own, free_port())
    with running(made, tmp_path / "engine.log"):
        assert len({says(made, own, name) for name in (None, "one", "two")}) == 3
        assert len(client(made).embeddings.create(model="desk", input="x").data[0].embedding) == 576
        with pytest.raises(openai.AuthenticationError):
            client(replace(made, api_key="wrong")).chat.completions.create(model="desk", messages=HI)
    bad = replace(own, model=spec.adapters[0][1], adapters=())
    with pytest.raises(RuntimeError) as e, running(llamacpp.create().launch(bad, free_port()), tmp_path / "bad.log"):
        pass
    assert "failed to load model" in llamacpp.create().reason(str(e.value))
