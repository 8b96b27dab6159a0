"""What is known of Triton, where no Triton is: found or not, launched, asked, read. The real one: tests/engines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core import registry
from pilothouse.core.client import run
from pilothouse.core.errors import UserError
from pilothouse.serve.base import CAPABILITIES, EngineSpec
from pilothouse.serve.engines import _triton_process as process
from pilothouse.serve.engines import _triton_repository as repository
from pilothouse.serve.engines import triton
from pilothouse.serve.engines._openai_pieces import Ask, EngineError, Piece
from pilothouse.serve.engines._triton_http import HttpTransport
from pilothouse.serve.engines._triton_models import LlamaCppModel, VllmModel, chat_template, fault

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that looks like the wheel's."""
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for folder in ("xllamacpp", "tritonclient", "msgspec", "httptools", "nvidia_pytriton-0.7.0.dist-info"):
        (site / folder).mkdir(parents=True)
    server = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    server.parent.mkdir(parents=True)
    server.touch()
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setenv("PILOTHOUSE_TRITON_PYTHON", str(python))
    monkeypatch.setattr(triton, "check_memory", lambda _: None)  # these are no models
    return site


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    for name in ("m.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    return EngineSpec(tmp_path / "m.gguf", "team/desk", (("a", tmp_path / "a.gguf"),), context=512, streams=3)


def launched(spec: EngineSpec, **options: Any) -> tuple[dict[str, Any], Any]:
    launch = triton.create().launch(with_(spec, options), 4711)
    return msgspec.json.decode(launch.argv[3]), launch


def with_(spec: EngineSpec, options: Mapping[str, Any], **changes: Any) -> EngineSpec:
    given = {f: getattr(spec, f) for f in ("model", "alias", "adapters", "context", "streams")}
    return EngineSpec(**(given | changes), options=options)


def test_it_is_a_member_that_says_where_it_was_found(home: Path) -> None:
    engine = registry.create("engines", "triton")
    assert engine.format == "gguf" and engine.capabilities <= set(CAPABILITIES)
    found = engine.check()
    assert found.runs and found.version == "nvidia-pytriton 0.7.0"
    (home / "xllamacpp").rmdir()
    assert not engine.check().runs and "xllamacpp is missing" in engine.check().reason


def test_without_a_tritonserver_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: EngineSpec
) -> None:
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PILOTHOUSE_TRITON_PYTHON", raising=False)
    check = triton.create().check()
    assert not check.runs and "no tritonserver" in check.reason and "triton_venv.py" in check.install
    with pytest.raises(UserError, match=r"no tritonserver.*triton_venv\.py"):
        triton.create().launch(spec, 1)
    with pytest.raises(UserError, match="option python: /gone: no such Python"):
        triton.create().launch(with_(spec, {"python": "/gone"}), 1)


def test_an_installed_tritonserver_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOTHOUSE_TRITON_PYTHON", raising=False)
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "tritonserver").write_text("#!/bin/sh\n")
    (tmp_path / "tritonserver").chmod(0o755)
    assert triton.create().check().version == f"at {tmp_path / 'tritonserver'}"


def test_it_is_launched_in_its_own_python_with_two_secrets(home: Path, spec: EngineSpec) -> None:
    settings, launch = launched(spec, threads=2, transport="http", http_port=8000)
    assert launch.argv[0].endswith("/env/bin/python") and launch.argv[1] == "-P"
    assert launch.url == "http://127.0.0.1:4711" and launch.argv[2].endswith("_triton_process.py")
    assert settings["name"] == "team-desk" and settings["alias"] == "team/desk" and settings["site"] == str(home)
    assert (settings["context"], settings["streams"], settings["threads"]) == (512, 3, 2)
    assert (settings["transport"], settings["http_port"], settings["grpc_port"]) == ("http", 8000, 0)
    assert settings["adapters"] == [["a", str(spec.adapters[0][1])]]
    secrets = {launch.api_key, launch.env["PILOTHOUSE_ENGINE_KEY"]}
    assert len(secrets) == 2 and not any(secret in " ".join(launch.argv) for secret in secrets)
    assert launch.env["OMP_WAIT_POLICY"] == "passive"


def test_an_adapter_is_chosen_by_name(spec: EngineSpec) -> None:
    engine = triton.create()
    assert engine.fields("a", spec) == {"adapter": "a"} and engine.fields(None, spec) == {}
    with pytest.raises(UserError, match=r"no adapter is called 'b'.*a"):
        engine.fields("b", spec)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"treads": 2}, r"no option 'treads'.*threads"),
        ({"transport": "carrier pigeon"}, "carrier pigeon"),
        ({"backend": "vllm"}, "no vLLM back end"),
        ({"url": "ftp://x"}, "not an http"),
        ({"url": "http://x", "http_port": 8000}, "'http_port' is for a Triton that is started here"),
        ({"url": "http://x", "transport": "grpc"}, "needs option 'grpc_url'"),
        ({"url": "http://x", "key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is empty"),
    ],
)
def test_options_it_cannot_use_are_refused(spec: EngineSpec, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        triton.create().launch(with_(spec, options), 1)


@pytest.mark.usefixtures("home")
def test_a_triton_that_runs_already_is_attached_to(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-theirs")
    settings, launch = launched(spec, url="http://triton:8000", key_env="THEIR_KEY", model="llm")
    assert launch.argv[0] == sys.executable  # HTTP needs nothing of Triton's
    assert (settings["url"], settings["transport"], settings["name"]) == ("http://triton:8000", "http", "llm")
    assert launch.env["PILOTHOUSE_ENGINE_KEY"] == "sk-theirs"
    settings, launch = launched(spec, url="http://triton:8000", grpc_url="triton:8001")
    assert launch.argv[0].endswith("/env/bin/python") and settings["transport"] == "grpc"


def test_vllms_back_end_has_fewer_capabilities_and_takes_its_own_arguments(
    tmp_path: Path, spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PILOTHOUSE_TRITON_PYTHON", raising=False)
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "tritonserver").write_text("#!/bin/sh\n")
    (tmp_path / "tritonserver").chmod(0o755)
    own = tmp_path / "own.json"
    own.write_text('{"tensor_parallel_size": 2, "max_model_len": 4096}')
    with pytest.raises(UserError, match="vLLM cannot read adapter 'a'"):
        launched(spec, backend="vllm")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").touch()
    spec = with_(spec, {}, adapters=(("a", tmp_path / "peft"),))
    settings, _ = launched(spec, backend="vllm", model_json=str(own), tokenizer="/m")
    arguments = settings["engine_args"]
    assert arguments["model"] == str(spec.model) and arguments["max_num_seqs"] == 3
    assert arguments["tensor_parallel_size"] == 2 and arguments["max_model_len"] == 4096
    assert triton.create().can(with_(spec, {"backend": "vllm"})) == {"streaming", "adapters", "prefix_cache"}
    needy = EngineSpec(spec.model, "m", options={"backend": "vllm"}, needs=frozenset({"logprobs", "tools"}))
    with pytest.raises(UserError, match=r"backend vllm\) cannot do .*logprobs, tools"):
        triton.create().launch(needy, 1)
    own.write_text("[1]")
    with pytest.raises(UserError, match="engine arguments cannot be read"):
        triton.create().launch(with_(spec, {"backend": "vllm", "model_json": str(own)}), 1)


def test_gauges_come_from_our_model_or_from_vllm_and_count_tritons_queue() -> None:
    gauges = triton.create().gauges
    ours = (
        '# TYPE x gauge\nnv_inference_pending_request_count{model="m",version="1"} 3\n'
        'pilothouse_llm_requests_running{model="m"} 2\npilothouse_llm_requests_waiting{model="m"} 5\n'
    )
    assert (gauges(ours).running, gauges(ours).waiting, gauges(ours).kv_used) == (2.0, 8.0, None)
    theirs = 'vllm:num_requests_running{model="m"} 4\nvllm:gpu_cache_usage_perc{model="m"} 0.25\n'
    assert (gauges(theirs).running, gauges(theirs).waiting, gauges(theirs).kv_used) == (4.0, None, 0.25)
    assert gauges("").running is None


def test_the_reason_is_the_models_then_tritons_then_ours() -> None:
    reason = triton.create().reason
    old = "0.00.1 E old: an error of an earlier start\npilothouse: starting Triton\n"
    model = (
        "0.00.003.095 E gguf_init_from_reader: invalid magic characters: '# Wo', expected 'GGUF'\n"
        "0.00.003.267 E srv    load_model: failed to load model, '/x/m.gguf'\n"
    )
    load = (
        'E1125 10:08:39.180833 9693 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "E1125 10:08:41.248836 9693 model_lifecycle.cc:642] \"failed to load 'desk' version 1: Internal: "
        "ModuleNotFoundError: No module named 'xllamacpp'\\n\\nAt:\\n  /r/desk/1/model.py(31): initialize\\n\"\n"
    )
    ours = "pilothouse: tritonserver ended while starting (exit code 1)\n"
    assert reason(old + model + load + ours).startswith("invalid magic characters")
    said = "failed to load 'desk' version 1: Internal: ModuleNotFoundError: No module named 'xllamacpp'"
    assert reason(old + load + ours) == said
    assert reason(old + ours) == "tritonserver ended while starting (exit code 1)"
    assert reason(old + load.partition("E1125 10:08:41")[0]) == ""  # a machine without GPU is no reason


def test_the_repository_holds_config_version_and_model(tmp_path: Path) -> None:
    settings = {"model": '/m "1".gguf', "alias": "desk", "adapters": [], "context": 1, "streams": 2, "threads": 1}
    repository.write_llamacpp(tmp_path, "desk", settings)
    config = (tmp_path / "desk" / "config.pbtxt").read_text()
    assert 'backend: "python"' in config and "decoupled: true" in config and 'name: "finish_reason"' in config
    value = next(line for line in config.splitlines() if line.startswith("parameters"))
    text = value.partition("string_value: ")[2].removesuffix(" } }")
    assert json.loads(json.loads(text)) == settings
    compile((tmp_path / "desk" / "1" / "model.py").read_text(), "model.py", "exec")
    assert "pilothouse.serve" not in (tmp_path / "desk" / "1" / "model.py").read_text()  # it runs where we are not


def test_the_repository_of_vllm_is_the_one_its_back_end_documents(tmp_path: Path) -> None:
    repository.write_vllm(tmp_path, "llm", {"model": "/m"}, [("a", "/adapters/a")])
    folder = tmp_path / "llm" / "1"
    assert json.loads((folder / "model.json").read_text()) == {"model": "/m", "enable_lora": True}
    assert json.loads((folder / "multi_lora.json").read_text()) == {"a": "/adapters/a"}
    config = (tmp_path / "llm" / "config.pbtxt").read_text()
    assert 'backend: "vllm"' in config and "KIND_MODEL" in config and "REPORT_CUSTOM_METRICS" in config
    repository.write_vllm(tmp_path, "plain", {"model": "/m"}, [])
    assert not (tmp_path / "plain" / "1" / "multi_lora.json").exists()


@dataclass
class Told:
    """A way to Triton that gives set responses and notes what was asked."""

    responses: list[Mapping[str, Any]]
    asked: list[tuple[Mapping[str, Any], Mapping[str, str]]] = field(default_factory=list)

    async def ask(
        self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        self.asked.append((inputs, parameters))
        for response in self.responses:
            yield response

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def pieces(model: Any, ask: Ask) -> list[Piece]:
    async def collect() -> list[Piece]:
        return [piece async for piece in model.generate(ask)]

    return run(collect())


def test_our_model_is_asked_with_json_and_its_chunks_become_pieces() -> None:
    chunks = [
        {"delta": {"content": "a"}, "logprobs": {"content": [1]}, "finish_reason": None},
        {"delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None},
        {"delta": {}, "finish_reason": "tool_calls"},
    ]
    outputs = {"chunks": json.dumps(chunks).encode(), "num_input_tokens": 7, "num_output_tokens": 3}
    told = Told([outputs])
    got = pieces(LlamaCppModel(told, "sesame"), Ask(True, HI, False, {"adapter": "a", "temperature": 0, "tools": []}))
    assert [p.text for p in got] == ["a", "", ""] and got[0].logprobs == {"content": [1]}
    assert got[1].more == {"tool_calls": [{"index": 0}]} and got[2].finish == "tool_calls"
    assert sum(p.completion_tokens for p in got) == 3 and got[2].prompt_tokens == 7
    inputs, parameters = told.asked[0]
    assert parameters == {"pilothouse_key": "sesame"} and inputs["adapter"] == "a" and inputs["stream"] is False
    assert json.loads(inputs["messages"]) == HI
    assert json.loads(inputs["sampling_parameters"]) == {"temperature": 0, "tools": []}


def test_vllms_back_end_is_asked_by_its_names_and_refuses_what_it_has_not() -> None:
    told = Told(
        [
            {"text_output": "a", "finish_reason": "None", "num_input_tokens": 7, "num_output_tokens": 1},
            {"text_output": "b", "finish_reason": "length", "num_input_tokens": 7, "num_output_tokens": 2},
        ]
    )
    model = VllmModel(told, lambda messages: f"<{messages[0]['content']}>")
    body = {"max_completion_tokens": 3, "stop": ["x"], "adapter": "a", "user": "u", "logprobs": False, "seed": None}
    got = pieces(model, Ask(True, HI, True, body))
    assert [(p.text, p.finish) for p in got] == [("a", ""), ("b", "length")]
    assert sum(p.completion_tokens for p in got) == 3
    inputs, parameters = told.asked[0]
    assert not parameters and inputs["text_input"] == "<Hi>" and inputs["exclude_input_in_output"] is True
    assert json.loads(inputs["sampling_parameters"]) == {"max_tokens": 3, "stop": ["x"], "lora_name": "a"}
    with pytest.raises(EngineError, match="has no logprobs, tools"):
        pieces(model, Ask(True, HI, True, {"logprobs": True, "tools": [{}]}))


def test_the_status_of_an_error_is_the_models_where_it_gives_one() -> None:
    assert (fault("[404] no adapter", 500).status, str(fault("[404] no adapter", 500))) == (404, "no adapter")
    assert (fault("Unable to parse", 400).status, fault("down", 0).status) == (400, 500)


async def _server(answers: Mapping[bytes, bytes], seen: list[bytes]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        seen.append(head + await reader.readexactly(length))
        writer.write(answers[head.split()[1]])
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def http(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def test_http_reads_generate_its_stream_and_its_errors_as_triton_sends_them() -> None:
    stream = b'data: {"text_output":"a"}\n\ndata: {"text_output":"b"}\n\n'
    cut = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = cut + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (stream[:20], stream[20:])) + b"0\r\n\r\n"
    answers = {
        b"/v2/models/desk/generate": http(b'{"text_output":"whole"}'),
        b"/v2/models/desk/generate_stream": chunked,
        b"/v2/models/desk/ready": http(b""),
        b"/v2/models/odd/generate": http(b'{"error":"[404] no adapter"}', 400),
        b"/v2/models/odd/generate_stream": http(b'data: {"error":"boom"}\n\n'),
        b"/v2/models/odd/ready": http(b"", 400),
        b"/v2/models/short/generate": b"HTTP/1.1 200 X\r\ncontent-length: 90\r\n\r\n{",
    }
    seen: list[bytes] = []

    async def check() -> None:
        server = await _server(answers, seen)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def texts(name: str, stream: bool) -> list[str]:
            transport = HttpTransport(url, name)
            asked = transport.ask({"text_input": "x", "stream": stream}, {"pilothouse_key": "k"})
            return [str(o["text_output"]) async for o in asked]

        assert await texts("desk", False) == ["whole"] and await texts("desk", True) == ["a", "b"]
        assert json.loads(seen[0].partition(b"\r\n\r\n")[2]) == {
            "text_input": "x",
            "stream": False,
            "pilothouse_key": "k",
        }
        assert await HttpTransport(url, "desk").ready() and not await HttpTransport(url, "odd").ready()
        for name, stream, status, says in (
            ("odd", False, 404, "no adapter"),
            ("odd", True, 500, "boom"),
            ("short", False, 502, "before its answer was whole"),
        ):
            with pytest.raises(EngineError, match=says) as e:
                await texts(name, stream)
            assert e.value.status == status
        server.close()
        with pytest.raises(EngineError, match="cannot be reached"):
            await texts("desk", False)

    run(check())


def test_files_of_killed_processes_are_swept_and_those_of_living_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.tempfile, "gettempdir", lambda: str(tmp_path))
    dead = 2**22 + 1
    for name in (f"{dead}-x", f"{os.getpid()}-y", "no-number"):
        (tmp_path / f"pilothouse-triton-{name}" / "inner").mkdir(parents=True)
    (tmp_path / f"pilothouse-triton-{dead}-file").touch()
    process._sweep()
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [f"pilothouse-triton-{os.getpid()}-y", "pilothouse-triton-no-number"]
    process._sweep(os.getpid())
    assert [p.name for p in tmp_path.iterdir()] == ["pilothouse-triton-no-number"]


def test_a_chat_template_is_the_models_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, unk_token="x"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=plain)
    made.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    made.save_pretrained(tmp_path)
    assert chat_template(str(tmp_path))(HI) == "[user]Hi[assistant]"
