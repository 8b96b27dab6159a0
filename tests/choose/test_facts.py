"""Facts from files: GGUF headers as the gguf package writes them, config.json as the hub has it, damage said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.choose import facts
from pilothouse.choose.gguf_header import read_header
from pilothouse.core.errors import UserError

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
    "sliding_window": 32768,
    "use_sliding_window": False,
}


def write_gguf(path: Path, *, arch: str = "llama", **extra: Any) -> Path:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("Tiny 1B")
    writer.add_block_count(2)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "bc", "déf"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    for key, value in extra.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), dtype=np.float32))
    for n in range(2):
        writer.add_tensor(f"blk.{n}.attn_norm.weight", np.zeros(64, dtype=np.float32))
        writer.add_tensor(f"blk.{n}.ffn_norm.weight", np.zeros(64, dtype=np.float32))
        writer.add_tensor(f"blk.{n}.attn_q.weight", np.zeros((64, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_header_is_read_as_the_gguf_package_wrote_it(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = write_gguf(tmp_path / "tiny.gguf")
    header, reference = read_header(path), gguf.GGUFReader(path)
    assert header.tensors == {t.name: tuple(int(n) for n in t.shape) for t in reference.tensors}
    assert header.parameters == sum(int(t.n_elements) for t in reference.tensors)
    assert header.metadata["general.name"] == "Tiny 1B" and header.metadata["tokenizer.ggml.tokens"] == 3
    found = facts.from_gguf(path)
    assert found.shape is not None and found.context == 2048
    assert (found.shape.layers, found.shape.kv_heads, found.shape.head_dim) == (2, 2, 16)
    assert (found.shape.vocabulary, found.shape.tied, found.shape.norms) == (3, True, 2)


@pytest.mark.parametrize(
    ("arch", "extra", "gap"),
    [
        ("mamba", {}, "architecture 'mamba'"),
        ("llama", {"expert_count": 8}, "mixture of experts"),
        ("deepseek2", {"attention.kv_lora_rank": 512}, "MLA"),
    ],
)
def test_an_architecture_we_cannot_plan_for_is_a_gap_and_no_guess(
    arch: str, extra: dict[str, int], gap: str, tmp_path: Path
) -> None:
    found = facts.from_gguf(write_gguf(tmp_path / "odd.gguf", arch=arch, **extra))
    assert found.shape is None and gap in found.gap


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=8))
def test_a_damaged_header_is_one_line_and_never_hangs(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    path.write_bytes(whole[:cut] + junk)
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert "\n" not in caught.value.line()


def test_config_json_gives_the_same_facts_as_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    found, listed = facts.from_path(tmp_path), facts.from_catalogue("qwen2.5-0.5b")
    assert listed is not None and found.shape == listed.shape and found.parameters == listed.parameters


def test_sliding_layers_are_counted_where_config_json_lists_them() -> None:
    layers = ["sliding_attention"] * 20 + ["full_attention"] * 4
    found = facts.from_config({**QWEN, "use_sliding_window": True, "layer_types": layers}, "here")
    assert found.shape is not None and found.shape.window_layers == 20


def test_a_config_json_without_a_needed_key_names_it() -> None:
    config = {k: v for k, v in QWEN.items() if k != "intermediate_size"}
    with pytest.raises(UserError, match="lacks 'intermediate_size'"):
        facts.from_config(config, "here")
