"""What is known of each engine: how it is launched, asked for an adapter, read, and why it says no."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve.base import CAPABILITIES, Engine, EngineSpec, Format
from pilothouse.serve.engines import llamacpp, remote
from pilothouse.serve.engines._options import read_options


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    for name in ("m.gguf", "a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    monkeypatch.setattr(llamacpp, "check_memory", lambda _: None)  # these are no models; tested with a real one
    adapters = (("a", tmp_path / "a.gguf"), ("b", tmp_path / "b.gguf"))
    return EngineSpec(tmp_path / "m.gguf", "desk", adapters, context=512, streams=3)


def changed(spec: EngineSpec, **fields: Any) -> EngineSpec:
    return EngineSpec(
        **{
            **{f: getattr(spec, f) for f in ("model", "alias", "adapters", "context", "streams", "options", "needs")},
            **fields,
        }
    )


def _text(key: str, value: str) -> bytes:
    """A text of GGUF's metadata."""
    sized = [struct.pack("<Q", len(t.encode())) + t.encode() for t in (key, value)]
    return sized[0] + struct.pack("<I", 8) + sized[1]


ENGINES = tuple(registry.modules("engines"))


@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_members_and_say_what_they_can(name: str) -> None:
    engine: Engine = registry.create("engines", name)
    check = engine.check()
    assert engine.capabilities <= set(CAPABILITIES) and engine.format in get_args(Format)
    assert check.install and (check.version if check.runs else check.reason)
    assert "_llamacpp_process" not in ENGINES and {"llamacpp", "remote", "tgi"} <= set(ENGINES)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_show_their_options_as_data_whose_defaults_they_take(name: str) -> None:
    options = registry.module("engines", name).OPTIONS
    assert len({option.name for option in options}) == len(options)
    for option in options:
        assert option.meaning.endswith((".", "…", ")")) and option.type_name
        if option.default not in (None, ()):
            assert read_options(name, {option.name: option.default}, options)[option.name] == option.default
    with pytest.raises(UserError, match=f"engine {name} has no option 'no_such'"):
        read_options(name, {"no_such": 1}, options)


def test_llamacpp_is_launched_with_all_its_settings_and_a_secret_key(spec: EngineSpec) -> None:
    launch = llamacpp.create().launch(spec, 4711)
    settings = msgspec.json.decode(launch.argv[3])
    assert launch.url == "http://127.0.0.1:4711" and settings["port"] == 4711
    assert (settings["context"], settings["streams"], settings["alias"]) == (512, 3, "desk")
    assert settings["adapters"] == [str(path) for _, path in spec.adapters]
    assert settings["threads"] == len(os.sched_getaffinity(0))
    assert (launch.env["OMP_WAIT_POLICY"], launch.env["GOMP_SPINCOUNT"]) == ("passive", "1000")
    assert len(launch.api_key) >= 32 and launch.api_key not in " ".join(launch.argv)
    assert llamacpp.create().launch(spec, 1).api_key != launch.api_key


def test_llamacpp_names_every_adapter_in_every_request(spec: EngineSpec) -> None:
    engine = llamacpp.create()
    assert engine.fields("b", spec) == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}
    assert engine.fields(None, spec) == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]}
    assert engine.fields(None, changed(spec, adapters=())) == {}
    with pytest.raises(UserError, match=r"no adapter is called 'c'.*a, b"):
        engine.fields("c", spec)


def test_llamacpp_refuses_what_is_not_there(spec: EngineSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no option 'treads'.*threads"):
        llamacpp.create().launch(changed(spec, options={"treads": 2}), 1)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "gone.gguf"))):
        llamacpp.create().launch(changed(spec, adapters=(("x", tmp_path / "gone.gguf"),)), 1)


def test_llamacpp_gauges_and_reason() -> None:
    text = "# TYPE x gauge\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n"
    gauges = llamacpp.create().gauges(text)
    assert (gauges.running, gauges.waiting, gauges.kv_used) == (2.0, 5.0, None)
    log = (
        "0.00.001.000 E old: an error of an earlier start\n"
        "pilothouse: starting llama.cpp\n"
        "0.00.003.095 E gguf_init_from_reader: invalid magic characters: '# Wo', expected 'GGUF'\n"
        "0.00.003.213 I srv init: loading\n"
        "0.00.003.267 E srv    load_model: failed to load model, '/x/m.gguf'\n"
        "0.00.003.558 E srv          init: exiting due to model loading error\n"
        "RuntimeError: Failed to init server, please check the input params.\n"
    )
    reason = llamacpp.create().reason(log)
    assert reason == "invalid magic characters: '# Wo', expected 'GGUF'; failed to load model, '/x/m.gguf'"
    raised = "pilothouse: starting llama.cpp\nTraceback\nRuntimeError: Failed to init server\n"
    assert llamacpp.create().reason(log + raised) == "Failed to init server"
    assert llamacpp.create().reason("all is well\n") == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "serve.options.threads: 0 is too small. 1 or more"),
        ({"threads": "2"}, "needs option 'threads' as a whole number, got '2'"),
        ({"kv_unified": 1}, "needs option 'kv_unified' as true or false, got 1"),
        ({"kv_type": "q9"}, "'q9' is not possible. One of: f32, f16"),
        ({"kv_type": "q8_0", "flash_attention": "off"}, "cached values of type 'q8_0' need flash attention"),
        ({"prompt_cache_mb": 100}, "prompt cache mixes up adapters"),
        ({"binary": "no-such-llama"}, "no program 'no-such-llama' can be run here"),
        ({"url": "http://127.0.0.1:1", "batch": 7}, "'batch' has no effect with option 'url'"),
    ],
)
def test_llamacpp_says_which_option_is_wrong(spec: EngineSpec, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        llamacpp.create().launch(changed(spec, options=options), 1)


def test_llamacpp_serves_embeddings_when_the_project_needs_them(spec: EngineSpec) -> None:
    def settings(**fields: Any) -> Any:
        return msgspec.json.decode(llamacpp.create().launch(changed(spec, **fields), 1).argv[3])

    needs = frozenset({"embeddings"})
    assert settings()["embeddings"] == "off"
    assert (settings(needs=needs)["embeddings"], settings(needs=needs, context=4096)["ubatch"]) == ("mean", 4096)
    with pytest.raises(UserError, match=r"embeddings.*Set it to mean"):
        settings(needs=needs, options={"embeddings": "off"})


@pytest.mark.parametrize(
    ("data", "takes"),
    [
        (b"GGUF" + b"\0" * 40 + _text("tokenizer.chat_template", "{% if tools %}x{% endif %}"), True),
        (b"GGUF" + b"\0" * 40 + _text("tokenizer.chat_template", "{{ messages }} toolsmith"), False),
        (b"GGUF" + b"\0" * 40 + _text("tokenizer.chat_template.tool_use", "{{ tools }}"), False),
        (b"GGUF" + b"\0" * 40 + _text("tokenizer.chat_template", "x")[:-1], False),
        (b"GG", True),
    ],
)
def test_llamacpp_claims_tools_only_where_the_template_takes_them(
    spec: EngineSpec, tmp_path: Path, data: bytes, takes: bool
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(data)
    assert ("tools" in llamacpp.create().can(changed(spec, model=model))) is takes


def test_llamacpps_own_server_gets_the_settings_as_its_flags(spec: EngineSpec, tmp_path: Path) -> None:
    options = {"binary": sys.executable, "threads": 3, "kv_type": "q8_0", "gpu_layers": 7, "embeddings": "cls"}
    launch = llamacpp.create().launch(changed(spec, options=options), 4711)
    assert launch.argv[1:3] == ("-m", "pilothouse.serve.engines._become")
    line = " ".join(launch.argv[3:])
    for flags in (
        f"{sys.executable} --model {spec.model} --alias desk --host 127.0.0.1 --port 4711",
        "--ctx-size 1536 --parallel 3 --threads 3 --threads-batch 3 --batch-size 2048 --ubatch-size 512",
        "--cache-type-k q8_0 --cache-type-v q8_0 --flash-attn auto --no-kv-unified --cache-ram 0 --metrics",
        "--n-gpu-layers 7 --embeddings --pooling cls",
        f"--lora-scaled {spec.adapters[0][1]}:0.0,{spec.adapters[1][1]}:0.0",
    ):
        assert flags in line
    assert launch.env["LLAMA_API_KEY"] == launch.api_key and launch.api_key not in line
    odd = tmp_path / "a,b.gguf"
    odd.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="path holds ','"):
        llamacpp.create().launch(changed(spec, adapters=(("odd", odd),), options=options), 1)


def test_remote_takes_url_and_key_from_its_options(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", " sk-theirs \n")
    options = {"url": "https://models.example.com/team/v1/", "key_env": "THEIR_KEY", "model": "big-70b"}
    there = changed(spec, adapters=(), options=options)
    launch = remote.create().launch(there, 1)
    assert (launch.argv, launch.url, launch.api_key) == ((), "https://models.example.com/team", "sk-theirs")
    assert remote.create().fields(None, there) == {"model": "big-70b"}
    assert remote.create().fields(None, changed(there, options={"url": "http://x"})) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs option 'url'"),
        ({"url": 3}, "needs option 'url'"),
        ({"url": "ftp://x"}, "not an http"),
        ({"url": "http://x", "key": "sk-1"}, "no option 'key'.*key_env"),
        ({"url": "http://x", "key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is empty or not set"),
    ],
)
def test_remote_refuses_options_it_cannot_use(spec: EngineSpec, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        remote.create().launch(changed(spec, adapters=(), options=options), 1)


def test_remote_cannot_have_adapters(spec: EngineSpec) -> None:
    with pytest.raises(UserError, match=r"cannot load adapters \(a, b\)"):
        remote.create().launch(changed(spec, options={"url": "http://x"}), 1)


@pytest.mark.parametrize("name", ["llamacpp", "remote"])
def test_what_a_project_needs_and_an_engine_has_not_is_said_at_launch(name: str, spec: EngineSpec) -> None:
    engine = registry.create("engines", name)
    options = {"url": "http://x"} if name == "remote" else {}
    with pytest.raises(UserError, match=f"engine {name} cannot do what this project needs: hot adapters"):
        needs = frozenset({"hot_adapters", "streaming"})
        engine.launch(changed(spec, adapters=(), options=options, needs=needs), 1)
    assert engine.adapter_call("load", "a", spec.model) is None
    body: dict[str, Any] = {"messages": []}
    assert engine.rewrite(body) is body


def test_remote_lacks_what_its_options_say(spec: EngineSpec) -> None:
    there = changed(spec, adapters=(), options={"url": "http://x", "lacks": ["logprobs"]}, needs=frozenset({"tools"}))
    assert remote.create().launch(there, 1).url == "http://x"
    with pytest.raises(UserError, match="cannot do what this project needs: logprobs"):
        remote.create().launch(changed(there, needs=frozenset({"logprobs"})), 1)
    with pytest.raises(UserError, match=r"'logprob' is not possible.*One of: embeddings, logprobs"):
        remote.create().launch(changed(there, options={"url": "http://x", "lacks": ["logprob"]}), 1)
