"""What is a transformers layer called in GGUF, and in which order does it keep its rows?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np

from pilothouse.core.errors import UserError

_PLAIN = ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2")


@dataclass(frozen=True, slots=True)
class Names:
    """Names and row order of one architecture."""

    arch: str
    layers: int
    heads: int
    kv_heads: int

    def of(self, module: str) -> str:
        """GGUF's name (without `.weight`) of a layer named as in transformers, e.g. model.layers.0.mlp.up_proj."""
        arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == self.arch)
        found = gguf.get_tensor_name_map(arch, self.layers).get_name(module, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(f"llama.cpp has no name for the layer {module!r} of {self.arch}", where="export")
        return str(found)

    def rows(self, name: str, weight: np.ndarray) -> np.ndarray:
        """The weight (or LoRA B) with its rows as GGUF keeps them.

        llama's query and key rows are stored for rotary embeddings of neighbouring pairs, transformers' for halves
        (llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute). Other architectures keep their order.
        """
        part = name.removesuffix(".weight").rpartition(".")[2]
        if self.arch != "llama" or part not in ("attn_q", "attn_k"):
            return weight
        heads = self.heads if part == "attn_q" else self.kv_heads
        half = weight.shape[0] // heads // 2
        return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def names(weights: Path, arch: str) -> Names:
    """Names for the weights in this folder under a GGUF architecture; one we have not checked is a UserError."""
    if arch != "llama" and arch not in _PLAIN:
        known = ", ".join(("llama", *_PLAIN))
        raise UserError(f"export to GGUF is not known for {arch!r}", where="export", fix=f"Known: {known}.")
    config: dict[str, Any] = msgspec.json.decode((weights / "config.json").read_bytes())
    heads = int(config["num_attention_heads"])
    return Names(arch, int(config["num_hidden_layers"]), heads, int(config.get("num_key_value_heads") or heads))
