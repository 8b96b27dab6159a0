"""GGUF files: what is written reads back, by another program, as the model that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
import torch

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.tune import gguf_adapter, gguf_base, gguf_merge, gguf_write
from pilothouse.tune.gguf_names import Names, names
from pilothouse.tune.run import load_model
from tests.tune import tiny

IDS = torch.tensor([[1, 40, 77, 120, 9, 33, 2, 200]])


def nothing() -> None:
    """No progress."""


def read_back(path: Path) -> Any:
    """The independent reader: transformers' own GGUF loader."""
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    ).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "base.gguf"
    gguf_base.write(tiny_folder, path, "F16", title="tiny", done=nothing)
    return path


def adapter(folder: Path, out: Path, method: str = "lora") -> tuple[Path, Any]:
    """A random adapter (B not zero) and the model that it makes."""
    from peft import get_peft_model

    model = load_model(folder)
    tuned = get_peft_model(model, registry.create("methods", method, r=4, alpha=8).config(model))
    torch.manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.2)
    tuned.save_pretrained(out)
    return out, tuned


def test_weights_written_as_gguf_read_back_as_the_same_model(tiny_folder: Path, base: Path) -> None:
    torch.testing.assert_close(logits(read_back(base)), logits(load_model(tiny_folder)), atol=0.02, rtol=0.01)


def test_qwen2_with_biases_reads_back_too(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path / "qwen"
    torch.manual_seed(3)
    shape = msgspec.json.decode((tiny_folder / "config.json").read_bytes())
    keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model = Qwen2ForCausalLM(Qwen2Config(**{k: shape[k] for k in keep}, num_key_value_heads=2, initializer_range=0.1))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    for part in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / part).write_bytes((tiny_folder / part).read_bytes())
    gguf_base.write(folder, tmp_path / "q.gguf", "F16", title="q", done=nothing)
    torch.testing.assert_close(logits(read_back(tmp_path / "q.gguf")), logits(model), atol=0.02, rtol=0.01)


@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_a_merged_model_is_what_peft_merges(tiny_folder: Path, base: Path, tmp_path: Path, method: str) -> None:
    folder, tuned = adapter(tiny_folder, tmp_path / "a", method)
    gguf_merge.merge(base, tiny_folder, folder, tmp_path / "m.gguf", "F16")
    expected = logits(tuned.merge_and_unload())
    assert (expected - logits(load_model(tiny_folder))).abs().max() > 1  # the adapter does something
    torch.testing.assert_close(logits(read_back(tmp_path / "m.gguf")), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize(("method", "alpha"), [("lora", 8.0), ("rslora", 16.0)])
def test_the_adapter_file_says_what_llama_cpp_divides_by_the_rank(
    tiny_folder: Path, tmp_path: Path, method: str, alpha: float
) -> None:
    folder, _ = adapter(tiny_folder, tmp_path / "a", method)
    lora = gguf_adapter.read(folder, names(tiny_folder, "llama"))
    gguf_adapter.write(lora, "llama", tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field("adapter.lora.alpha").contents() == alpha
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("adapter.type").contents() == "lora"
    shapes = {t.name: tuple(t.shape) for t in reader.tensors}  # GGUF writes the fastest dimension first
    assert shapes["blk.1.attn_k.weight.lora_a"] == (64, 4)
    assert shapes["blk.1.attn_k.weight.lora_b"] == (4, 32)
    assert len(shapes) == 2 * 7 * 2


def test_only_llamas_query_and_key_rows_are_permuted() -> None:
    weight = np.arange(16.0).reshape(8, 2)
    llama, qwen = Names("llama", 1, 2, 1), Names("qwen2", 1, 2, 1)
    assert llama.rows("blk.0.attn_q.weight", weight)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    assert llama.rows("blk.0.attn_k.weight", weight)[:, 0].tolist() == [0, 8, 2, 10, 4, 12, 6, 14]
    assert (llama.rows("blk.0.attn_v.weight", weight) == weight).all()
    assert (qwen.rows("blk.0.attn_q.weight", weight) == weight).all()


def test_eight_bits_are_close_and_the_metadata_stays(base: Path, tmp_path: Path) -> None:
    source = gguf_write.read(base)
    count = 0

    def count_up() -> None:
        nonlocal count
        count += 1

    gguf_write.rewrite(source, tmp_path / "q8.gguf", "Q8_0", done=count_up)
    copy = gguf_write.read(tmp_path / "q8.gguf")
    assert count == len(source.tensors) == len(copy.tensors)
    assert gguf_write.is_faithful(copy)
    for before, after in zip(source.tensors, copy.tensors, strict=True):
        one, other = gguf_write.values(before), gguf_write.values(after)
        step = np.abs(one).max() / 127
        assert np.abs(one - other).max() <= 0.51 * step + 1e-3 * np.abs(one).max(), before.name
    for key, field in source.fields.items():
        if key.startswith(("tokenizer.", "llama.")):
            assert copy.get_field(key).contents() == field.contents(), key


def test_four_bits_spare_embeddings_and_are_not_called_faithful(base: Path, tmp_path: Path) -> None:
    gguf_write.rewrite(gguf_write.read(base), tmp_path / "q4.gguf", "Q4_0", done=nothing)
    copy = gguf_write.read(tmp_path / "q4.gguf")
    kinds = {t.name: t.tensor_type.name for t in copy.tensors}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"
    assert not gguf_write.is_faithful(copy)


def test_a_failed_write_leaves_no_file(base: Path, tmp_path: Path) -> None:
    def broken(name: str, _: np.ndarray) -> np.ndarray:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        gguf_write.rewrite(gguf_write.read(base), tmp_path / "x.gguf", "Q8_0", change=broken, done=nothing)
    assert list(tmp_path.iterdir()) == []


def test_what_gguf_cannot_express_is_refused_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder, _ = adapter(tiny_folder, tmp_path / "a")
    path = folder / "adapter_config.json"
    config = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**config, "use_dora": True}))
    with pytest.raises(UserError, match="cannot hold 'use_dora'"):
        gguf_adapter.read(folder, names(tiny_folder, "llama"))
    with pytest.raises(UserError, match="export to GGUF is not known for 'mamba'"):
        names(tiny_folder, "mamba")
    with pytest.raises(UserError, match="not a readable GGUF file"):
        gguf_write.read(path)


def test_models_that_cannot_be_written_are_refused_by_name(tmp_path: Path) -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = tiny.save(tmp_path / "s", rope_parameters={**scaled, "original_max_position_embeddings": 256})
    with pytest.raises(UserError, match="rotary scaling"):
        gguf_base.write(folder, tmp_path / "s.gguf", "Q8_0", title="s", done=nothing)
    plain = tiny.save(tmp_path / "p")
    tokenizer = msgspec.json.decode((plain / "tokenizer.json").read_bytes())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (plain / "tokenizer.json").write_bytes(msgspec.json.encode(tokenizer))
    with pytest.raises(UserError, match="tokenizer cannot be written"):
        gguf_base.write(plain, tmp_path / "p.gguf", "Q8_0", title="p", done=nothing)
    assert not list(tmp_path.glob("*.gguf"))
