"""What a model takes and whether it fits: published shapes, the border of what is said to fit, RAM, groups and GPUs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.serve import devices, memory
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.devices import Gpu
from pilothouse.serve.footprint import of_folder
from pilothouse.serve.memory import Plan, check_memory, need

GB = 10**9
PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a model's folder: config.json and weights of a size (holes on the disk: nothing is written)."""

    def make(config: dict[str, Any], weights: int = GB, name: str = "model.safetensors") -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        hole(tmp_path / name, weights)
        return tmp_path

    return make


def hole(file: Path, size: int) -> None:
    with file.open("wb") as f:
        os.truncate(f.fileno(), size)


def free(monkeypatch: pytest.MonkeyPatch, now: int | None, whole: int | None = None) -> None:
    monkeypatch.setattr(memory, "available", lambda: now)
    monkeypatch.setattr(memory, "capacity", lambda: whole)


@pytest.mark.parametrize(
    ("config", "tokens", "bytes_"),
    [
        pytest.param(PLAIN, 1, 131_072, id="Llama 3.1 8B: grouped keys"),
        pytest.param({**PLAIN, "num_key_value_heads": None}, 1, 4 * 131_072, id="as many keys as heads"),
        pytest.param({**PLAIN, "head_dim": 64}, 1, 65_536, id="head size of its own"),
        pytest.param({**PLAIN, "torch_dtype": "float32"}, 1, 131_072, id="float32 is loaded as 16 bits"),
        pytest.param({"text_config": PLAIN, "torch_dtype": "bfloat16"}, 1, 131_072, id="text beside pictures"),
        pytest.param(
            {**PLAIN, "sliding_window": 4096}, 32_000, 4096 * 131_072, id="Mistral 7B v0.1: window everywhere"
        ),
        pytest.param(
            {**PLAIN, "sliding_window": 4096, "use_sliding_window": False}, 32_000, 32_000 * 131_072, id="Qwen2: off"
        ),
        pytest.param(
            {**PLAIN, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 24},
            10_000,
            (24 * 10_000 + 8 * 4096) * 4096,
            id="Qwen2: the upper layers",
        ),
        pytest.param(
            {**PLAIN, "model_type": "gemma3_text", "num_hidden_layers": 12, "sliding_window": 1024},
            10_000,
            (2 * 10_000 + 10 * 1024) * 4096,
            id="Gemma 3: one layer in six sees everything",
        ),
        pytest.param(
            {
                **PLAIN,
                "num_hidden_layers": 4,
                "sliding_window": 128,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            1000,
            (2 * 1000 + 2 * 128) * 4096,
            id="gpt-oss: named layers",
        ),
        pytest.param(
            {**PLAIN, "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
            1,
            70_272,
            id="DeepSeek V3: latent (its report says 70 KB a token)",
        ),
        pytest.param({**PLAIN, "num_kv_shared_layers": 20}, 1, 12 * 4096, id="Gemma 3n: shared layers"),
        pytest.param(
            {
                **PLAIN,
                "num_hidden_layers": 4,
                "layer_types": ["linear_attention"] * 3 + ["full_attention"],
                "linear_num_value_heads": 32,
                "linear_key_head_dim": 128,
                "linear_value_head_dim": 128,
            },
            1000,
            1000 * 4096 + 3 * 4 * 32 * 128 * 128,
            id="Qwen3-Next: a state that does not grow",
        ),
        pytest.param({"architectures": ["Strange"]}, 1000, 0, id="no figures"),
    ],
)
def test_a_streams_cache_follows_the_models_own_shape(
    folder: Folder, config: dict[str, Any], tokens: int, bytes_: int
) -> None:
    assert of_folder(folder(config)).stream(tokens) == bytes_


def test_types_of_weights_and_cache_count(folder: Folder) -> None:
    half = of_folder(folder(PLAIN, 8 * GB))
    assert (half.weights, half.stream(1)) == (8 * GB, 131_072)
    assert of_folder(folder(PLAIN), dtype="float32").stream(1) == 2 * 131_072
    assert of_folder(folder(PLAIN), kv_type="fp8").stream(1) == 131_072 // 2
    assert of_folder(folder({**PLAIN, "torch_dtype": "float32"}, 8 * GB)).weights == 4 * GB
    quantised = {**PLAIN, "torch_dtype": "float32", "quantization_config": {"quant_method": "awq"}}
    assert of_folder(folder(quantised, 8 * GB)).weights == 8 * GB


def test_more_devices_than_key_heads_keep_them_more_than_once(folder: Folder) -> None:
    grouped = of_folder(folder(PLAIN))
    assert grouped.stream(10, split=8) == grouped.stream(10)
    assert grouped.stream(10, split=16) == 2 * grouped.stream(10)
    latent = of_folder(folder({**PLAIN, "kv_lora_rank": 512}))
    assert latent.stream(10, split=4) == 4 * latent.stream(10)


def test_a_window_keeps_what_is_read_in_one_step_too(folder: Folder) -> None:
    window = of_folder(folder({**PLAIN, "sliding_window": 1000}))
    assert window.stream(9000, ahead=2000) == 3000 * 131_072


def test_weights_are_the_files_that_are_loaded(folder: Folder) -> None:
    model = folder(PLAIN, GB, "model-00001-of-00002.safetensors")
    hole(model / "model-00002-of-00002.safetensors", GB)
    hole(model / "consolidated.safetensors", 2 * GB)
    assert of_folder(model).weights == 2 * GB
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert of_folder(model).weights == GB
    (model / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights are missing: model-00001-of-00002\.safetensors"):
        of_folder(model)


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        of_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        of_folder(tmp_path)
    for wrong in ("{", "[]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(UserError, match=r"config\.json"):
            of_folder(tmp_path)
    with pytest.raises(UserError, match="no such model file"):
        check_memory(EngineSpec(tmp_path / "gone.gguf", "m"))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    streams=st.integers(1, 64),
    context=st.integers(64, 100_000),
    room=st.integers(GB, 20 * GB),
    window=st.sampled_from([None, 1000]),
)
def test_what_is_said_to_fit_fits_and_one_more_does_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, streams: int, context: int, room: int, window: int | None
) -> None:
    free(monkeypatch, room)
    spec = EngineSpec(folder({**PLAIN, "sliding_window": window}), "m", context=context, streams=streams)

    def line(changed: EngineSpec) -> str:
        try:
            check_memory(changed)
        except UserError as e:
            return e.line()
        return ""

    said = line(spec)
    if "use.context" in said:
        tokens = int(said.split("use.context to ")[1].split()[0])
        assert not line(replace(spec, streams=1, context=tokens)) and line(replace(spec, streams=1, context=tokens + 1))
    elif "use.streams" in said:
        fits = int(said.split("use.streams to ")[1].split()[0])
        assert not line(replace(spec, streams=fits)) and line(replace(spec, streams=fits + 1))
    elif said:
        assert "Choose a smaller model" in said and line(replace(spec, streams=1, context=64))


def test_adapters_count_and_unknown_memory_lets_pass(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = EngineSpec(folder(PLAIN), "m", context=64, streams=1)
    (adapter := tmp_path / "adapter").mkdir()
    hole(adapter / "adapter_model.safetensors", GB)
    both = replace(spec, adapters=(("a", adapter),))
    assert need(both).total == need(spec).total + GB
    free(monkeypatch, int(1.5 * GB))
    check_memory(spec)
    with pytest.raises(UserError, match=r"1 streams of 64 tokens need 2\.3 GB .* Choose a smaller model"):
        check_memory(both)
    free(monkeypatch, None)
    check_memory(both)


def test_all_replicas_must_fit_the_machine_and_one_what_is_free(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EngineSpec(folder(PLAIN, 2 * GB), "m", context=1000, streams=4)  # 0.5 GB of cache, 0.3 beside
    free(monkeypatch, 4 * GB, 9 * GB)
    check_memory(spec, replicas=3)
    with pytest.raises(UserError, match=r"each of 4 replicas .* 2\.2 GB is its share .* Or set replicas to 3"):
        check_memory(spec, replicas=4)
    with pytest.raises(UserError, match="replicas"):
        check_memory(replace(spec, replicas=4))
    free(monkeypatch, 2 * GB, 90 * GB)
    with pytest.raises(UserError, match="are free"):
        check_memory(spec)


def test_replicas_of_a_mapped_file_share_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hole(tmp_path / "m.gguf", 5 * GB)
    monkeypatch.setattr("pilothouse.serve.footprint.kv_bytes_per_token", lambda _: 1)
    free(monkeypatch, 9 * GB, 9 * GB)
    check_memory(EngineSpec(tmp_path / "m.gguf", "m"), replicas=10)
    with pytest.raises(UserError, match="each of 20 replicas"):
        check_memory(EngineSpec(tmp_path / "m.gguf", "m"), replicas=20)


def test_a_cache_set_by_hand_is_what_counts(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EngineSpec(folder(PLAIN), "m", context=100_000, streams=64)
    free(monkeypatch, 4 * GB)
    check_memory(spec, plan=Plan(cache=2 * GB))
    with pytest.raises(UserError, match=r"Set kv_cache_gb to 2\.7 or less"):
        check_memory(spec, plan=Plan(cache=3 * GB))


def gpu(index: int, free_gb: int, total_gb: int = 80) -> Gpu:
    return Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", total_gb * GB, free_gb * GB)


def test_gpus_that_share_a_model_are_summed(folder: Folder) -> None:
    spec = EngineSpec(folder(PLAIN, 140 * GB), "m", context=8192, streams=8)
    plan = Plan(gpus=(gpu(0, 79), gpu(1, 79)), share=0.9, overhead=2 * GB)
    with pytest.raises(UserError, match=r"72\.0 GB can be used on 1 GPU \(NVIDIA H100 80GB HBM3\)"):
        check_memory(spec, plan=plan)
    with pytest.raises(UserError, match=r"on 2 GPUs .* Choose a smaller model"):
        check_memory(spec, plan=replace(plan, tensor=2))
    check_memory(spec, plan=replace(plan, tensor=2, offload=10 * GB))
    fits = replace(plan, gpus=tuple(gpu(i, 79) for i in range(4)), tensor=4)
    check_memory(spec, plan=fits)
    check_memory(spec, plan=replace(fits, tensor=2, pipeline=2))
    with pytest.raises(UserError, match=r"Set use\.streams to \d+ or less"):
        check_memory(replace(spec, streams=200), plan=fits)


def test_the_gpu_with_least_room_decides_among_the_freest(folder: Folder) -> None:
    spec = EngineSpec(folder(PLAIN, 20 * GB), "m", context=1024, streams=1)
    busy = (gpu(0, 5), gpu(1, 79), gpu(2, 30))
    check_memory(spec, plan=Plan(gpus=busy))
    check_memory(spec, plan=Plan(gpus=busy, tensor=2))
    with pytest.raises(UserError, match=r"15\.0 GB can be used on 3 GPUs"):
        check_memory(spec, plan=Plan(gpus=busy, tensor=3))
    check_memory(spec, plan=Plan(gpus=(replace(gpu(0, 1), free=None),)))  # shared with the CPU: not told


def test_parallel_sizes_and_replicas_need_as_many_gpus(folder: Folder) -> None:
    spec, plan = EngineSpec(folder(PLAIN), "m"), Plan(gpus=tuple(gpu(i, 79) for i in range(4)), tensor=2)
    check_memory(spec, plan=plan, replicas=2)
    with pytest.raises(UserError, match=r"8 GPUs are needed \(2 tensor parallel, 2 data parallel, replicas: 2\), 4"):
        check_memory(spec, plan=replace(plan, copies=2), replicas=2)
    with pytest.raises(UserError, match="Take an engine for CPUs"):
        check_memory(spec, plan=Plan(gpus=()))


SMI = """0, GPU-5f0c, NVIDIA H100 80GB HBM3, 81559, 81079
1, GPU-77aa, NVIDIA H100 80GB HBM3, 81559, 512
2, GPU-9b1d, NVIDIA GB10, [N/A], [N/A]
Failed to initialize NVML: Driver/library version mismatch
"""


def test_nvidia_smi_is_read_and_the_environment_chooses() -> None:
    found = devices.parse_gpus(SMI.splitlines())
    assert [(g.index, g.free) for g in found] == [(0, 81079 * 2**20), (1, 512 * 2**20), (2, None)]
    assert found[0].name == "NVIDIA H100 80GB HBM3" and found[0].total == 81559 * 2**20
    assert devices.visible(found, None) == found
    assert devices.visible(found, "1, 0") == (found[1], found[0])
    assert devices.visible(found, "GPU-77") == (found[1],)
    assert devices.visible(found, "0,7,1") == (found[0],)
    assert devices.visible(found, "") == devices.visible(found, "-1") == ()
    assert devices.freest(found[:2], 1) == (found[0],)


def test_a_nvidia_smi_that_fails_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{SMI}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [g.index for g in devices.gpus()] == [1]
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert devices.gpus() == ()


def test_an_engine_bound_to_a_memory_node_has_that_nodes_room(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = min(os.sched_getaffinity(0))
    for number, cores in ((0, (9999,)), (1, (core,))):
        (node := tmp_path / "nodes" / f"node{number}").mkdir(parents=True)
        for c in cores:
            (node / f"cpu{c}").mkdir()
        told = {"MemTotal": 12_000_000, "MemFree": 1_000_000, "Inactive(file)": 500_000, "AnonPages": 9_000_000}
        (node / "meminfo").write_text("".join(f"Node {number} {k}: {v + number} kB\n" for k, v in told.items()))
    monkeypatch.setattr(devices, "_NODES", tmp_path / "nodes")
    assert devices.node_room() == 1_500_002 * 1024
    free(monkeypatch, 20 * GB)
    spec = EngineSpec(folder(PLAIN, 2 * GB), "m", context=64, streams=1)
    check_memory(spec)
    with pytest.raises(UserError, match=r"1\.5 GB are free on the memory node that it is bound to"):
        check_memory(spec, plan=Plan(bound=True))
    check_memory(spec, plan=Plan(bound=True, tensor=2))
    monkeypatch.setattr(devices, "_NODES", tmp_path)
    assert devices.node_room() is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_lowers_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    where = tmp_path / "memory" if version == 1 else tmp_path
    where.mkdir(exist_ok=True)
    limit, used, dropped = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.max", "memory.current", "inactive_file")
    )
    (where / used).write_text("700000000\n")
    (where / "memory.stat").write_text(f"anon 1\n{dropped} 200000000\n")
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    (where / limit).write_text("600000000\n")
    assert (devices.available(), devices.capacity()) == (100_000_000, 600_000_000)
    (where / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert (devices.capacity() or 0) > GB
