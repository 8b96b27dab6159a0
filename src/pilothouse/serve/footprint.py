"""What a model takes: bytes of its weights as they are loaded, and of the KV cache that a stream of tokens fills."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pilothouse.core.errors import UserError

# One layer in so many sees everything, in configurations older than transformers' `layer_types`.
_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
_WIDTH = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Footprint:
    """Bytes. The KV cache has three kinds of layers; a model may mix them.

    full: a token in all layers that keep every token. sliding: a token in layers that keep the last `window` only.
    fixed: a stream in layers whose state does not grow (linear attention). kv_heads: 0 for a latent cache (MLA).
    """

    weights: int
    full: int
    sliding: int = 0
    window: int = 0
    fixed: int = 0
    kv_heads: int = 1

    def stream(self, tokens: int, *, split: int = 1, ahead: int = 0) -> int:
        """Bytes of one stream, summed over the `split` devices that share each layer (tensor parallelism).

        Devices share the heads; with more devices than heads, heads are kept several times; a latent cache by each.
        ahead: tokens that are read in one step: a window's layers keep these too while they are read.
        """
        kept = self.full * tokens + self.sliding * min(tokens, self.window + ahead) + self.fixed
        return kept * max(split // max(self.kv_heads, 1), 1)


def of_gguf(model: Path) -> Footprint:
    """A GGUF file: mapped as it is; llama.cpp keeps an f16 cache."""
    if not model.is_file():
        raise UserError("no such model file", where=str(model))
    return Footprint(model.stat().st_size, kv_bytes_per_token(model))


@cache
def kv_bytes_per_token(model: Path) -> int:
    """2·layers·kv_heads·head_dim·2 bytes (f16 cache; grouped-query attention), from the GGUF's own metadata.

    0 where the `gguf` library is not installed: then only the weights are checked.
    """
    if find_spec("gguf") is None:
        return 0
    from gguf import GGUFReader

    try:
        reader = GGUFReader(model)
    except (ValueError, IndexError, OSError) as e:
        raise UserError(f"not a whole GGUF file ({e})", where=str(model), fix="Pull the model again.") from None

    def field(name: str) -> Any:
        found = next((f for key, f in reader.fields.items() if key.endswith(name)), None)
        return found.contents() if found is not None else 0

    layers, heads, kv_heads = field(".block_count"), field(".attention.head_count"), field(".attention.head_count_kv")
    most = max(heads) if isinstance(heads, list) else heads
    size = field(".attention.key_length") or (field(".embedding_length") // most if most else 0)
    in_all = sum(kv_heads) if isinstance(kv_heads, list) else layers * (kv_heads or most)  # one figure, or one a layer
    return int(2 * in_all * size * 2)


def of_folder(model: Path, *, dtype: str = "auto", kv_type: str = "auto") -> Footprint:
    """A Hugging Face folder, loaded as `dtype` with a cache of `kv_type` (vLLM's words, `auto` included)."""
    config = read_config(model)
    text = _text(config)
    stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "bfloat16")
    # vLLM's `auto`: float32 weights become 16 bits, all others stay what they are (its ModelConfig.dtype).
    loaded = (_WIDTH.get(stored, 2) if stored != "float32" else 2) if dtype == "auto" else _WIDTH.get(dtype, 2)
    weights = _weights(model)
    if "quantization_config" not in config and stored in _WIDTH:
        weights = weights * loaded // _WIDTH[stored]
    # fp8 and smaller: 4-bit caches keep scales beside, so one byte is the safe figure.
    width = loaded if kv_type == "auto" else _WIDTH.get(kv_type, 1)
    return _cache(text, width, weights)


def read_config(model: Path) -> dict[str, Any]:
    """The folder's config.json. UserError when it is not there or is none."""
    file = model / "config.json"
    if not file.is_file():
        fix = "This engine reads Hugging Face folders: config.json beside safetensors files."
        raise UserError("no config.json in the model's folder", where=str(model), fix=fix)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"not a readable config.json ({e})", where=str(file)) from None
    if not isinstance(config, dict):
        raise UserError("config.json holds no mapping", where=str(file))
    return config


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part, where pictures or sound have parts of their own."""
    inner = config.get("text_config") or config.get("llm_config")
    return inner if isinstance(inner, dict) else config


def _weights(model: Path) -> int:
    """The files that the index names; without an index all safetensors but a second, merged copy; else PyTorch's."""
    index = model / "model.safetensors.index.json"
    if index.is_file():
        files = {model / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    else:
        files = {p for p in model.glob("*.safetensors") if not p.name.startswith("consolidated")}
        files = files or set(model.glob("*.safetensors")) or set(model.glob("*.bin"))
    missing = sorted(p.name for p in files if not p.is_file())
    if missing or not files:
        what = f"weights are missing: {', '.join(missing)}" if missing else "no weights (*.safetensors) in the folder"
        raise UserError(what, where=str(model), fix="Pull the model again.")
    return sum(p.stat().st_size for p in files)


def _cache(config: Mapping[str, Any], width: int, weights: int) -> Footprint:
    """The five cases (FACTS 5): grouped heads, sliding windows, latent (MLA), linear attention, shared layers."""

    def number(*names: str) -> int:
        return next((int(config[n]) for n in names if isinstance(config.get(n), int)), 0)

    layers, heads = number("num_hidden_layers", "n_layer"), number("num_attention_heads", "n_head")
    if not layers or not heads:
        return Footprint(weights, 0)
    kinds = _kinds(config, layers)[: layers - number("num_kv_shared_layers")]
    if latent := number("kv_lora_rank"):
        # DeepSeek-V2 (2405.04434), table 1: one latent vector and one rotary key for all heads, not a pair a head.
        a_token = (latent + number("qk_rope_head_dim")) * width
        return Footprint(weights, len(kinds) * a_token, kv_heads=0)
    kv_heads = number("num_key_value_heads") or heads
    size = number("head_dim") or number("hidden_size", "n_embd") // heads
    pair = 2 * kv_heads * size * width
    # A gated delta layer keeps a matrix a value head, in fp32 (Qwen3-Next).
    state = 4 * number("linear_num_value_heads") * number("linear_key_head_dim") * number("linear_value_head_dim")
    return Footprint(
        weights,
        full=pair * kinds.count("full"),
        sliding=pair * kinds.count("sliding"),
        window=number("sliding_window"),
        fixed=state * kinds.count("linear"),
        kv_heads=kv_heads,
    )


def _kinds(config: Mapping[str, Any], layers: int) -> list[str]:
    """full, sliding or linear, a layer."""
    named = config.get("layer_types")
    window = isinstance(config.get("sliding_window"), int) and config.get("use_sliding_window", True)
    if isinstance(named, list) and len(named) == layers:
        words = [str(word) for word in named]
        return [
            "linear"
            if "linear" in word or "mamba" in word or "conv" in word
            else "sliding"
            if "sliding" in word and window
            else "full"
            for word in words
        ]
    if not window:
        return ["full"] * layers
    every = config.get("sliding_window_pattern", _EVERY.get(str(config.get("model_type"))))
    if isinstance(every, int) and every > 1:
        return ["full" if (i + 1) % every == 0 else "sliding" for i in range(layers)]
    first = config.get("max_window_layers")  # Qwen2: the layers below see everything
    whole = min(first, layers) if isinstance(first, int) else 0
    return ["full"] * whole + ["sliding"] * (layers - whole)
