"""A model that came as safetensors, written as GGUF: llama and qwen2 families with a byte-level BPE vocabulary.

Metadata and token types follow llama.cpp's convert_hf_to_gguf.py. What is not covered is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

from pilothouse.core.errors import UserError
from pilothouse.tune import pretokenizer
from pilothouse.tune.gguf_names import names
from pilothouse.tune.gguf_write import Quantisation, add, finish, whole

_ARCH = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}


def write(folder: Path, out: Path, quantisation: Quantisation, *, title: str, done: Callable[[], None]) -> None:
    """Write the weights in `folder` (Hugging Face layout) as one GGUF file."""
    config: dict[str, Any] = msgspec.json.decode((folder / "config.json").read_bytes())
    arch = _ARCH.get(str(config.get("model_type")))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if arch is None or rope.get("rope_type", rope.get("type", "default")) != "default":
        what = f"model type {config.get('model_type')!r}" if arch is None else f"rotary scaling {rope!r}"
        raise UserError(
            f"this model comes without a GGUF file, and writing one is not known for {what}",
            where="export",
            fix="Name the model's GGUF version as the source (hub:ORG/NAME-GGUF#FILE).",
        )
    with whole(out, arch) as writer:
        writer.add_name(title)
        _shape(writer, config, rope)
        _tokenizer(writer, folder, int(config["vocab_size"]))
        finish(writer, quantisation)
        order = names(folder, arch)
        for key, data in _tensors(folder, tied=bool(config.get("tie_word_embeddings"))):
            module, _, part = key.rpartition(".")
            name = f"{order.of(module)}.{part}"
            add(writer, name, order.rows(name.removesuffix(".bias"), data), quantisation)
            done()


def _shape(writer: Any, config: dict[str, Any], rope: dict[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    if width * heads != config["hidden_size"]:
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _tokenizer(writer: Any, folder: Path, size: int) -> None:
    from transformers import AutoTokenizer

    path = folder / "tokenizer.json"
    data = msgspec.json.decode(path.read_bytes()) if path.exists() else {"model": {}}
    pre = pretokenizer.name_of(path) if path.exists() else None
    if data["model"].get("type") != "BPE" or pre is None:
        raise UserError(
            "this model's tokenizer cannot be written as GGUF here (byte-level BPE of a known rule is needed)",
            where="export",
            fix="Name the model's GGUF version as the source (hub:ORG/NAME-GGUF#FILE).",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    vocab = {i: t for t, i in tokenizer.get_vocab().items()}
    added = {t["id"]: t for t in data.get("added_tokens", [])}
    tokens, kinds = [], []
    for i in range(size):
        known = i in vocab
        tokens.append(vocab.get(i, f"[PAD{i}]"))
        kind = gguf.TokenType.NORMAL if known else gguf.TokenType.UNUSED
        if i in added:
            kind = gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED
        kinds.append(kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id))
    for key, token in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if token is not None:
            getattr(writer, f"add_{key}_token_id")(token)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(folder: Path, *, tied: bool) -> Iterator[tuple[str, np.ndarray]]:
    """All weights as fp32, in a fixed order; the output head is left out where it is the embedding."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as f:
            for key in sorted(f.keys()):
                if not (tied and key == "lm_head.weight") and "rotary_emb" not in key:
                    yield key, f.get_tensor(key).to(torch.float32).numpy()
