"""What is known of this candidate? Its own file first, then its configuration, then the catalogue; never a guess."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.choose.base import Facts, Shape
from pilothouse.choose.gguf_header import read_header
from pilothouse.core.errors import UserError

_CATALOGUE = Path(__file__).with_name("catalogue.json")
# Architectures whose layers are all alike: full or sliding-window attention with grouped keys, gated feed-forward.
_PLAIN = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text"}


@cache
def catalogue() -> tuple[tuple[re.Pattern[str], Facts], ...]:
    """The built-in catalogue: (pattern on references, facts). Parameter counts are those added up from the shape."""
    entries = []
    for row in json.loads(_CATALOGUE.read_text(encoding="utf-8")):
        facts = Facts(
            model=row["model"],
            parameters=row["parameters"],
            shape=msgspec.convert(row, Shape),
            context=row["context"],
            source=f"catalogue: {row['source']}",
            licence=row["licence"],
            languages=tuple(row["languages"]),
        )
        entries.append((re.compile(rf"(?<![a-z0-9]){row['match']}(?![a-z0-9]|\.[0-9])"), facts))
    return tuple(entries)


def from_catalogue(reference: str) -> Facts | None:
    """The entry whose model the reference names (its instruction-tuned and GGUF forms share the architecture)."""
    text = reference.lower().replace("_", "-").replace(" ", "-")
    return next((facts for pattern, facts in catalogue() if pattern.search(text)), None)


def from_path(path: Path) -> Facts:
    """Facts from a GGUF file, a config.json or a Hugging Face folder."""
    if path.is_dir():
        return from_path(path / "config.json")
    if path.suffix == ".json":
        try:
            return from_config(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, ValueError) as e:
            raise UserError(f"not a readable config.json ({e})", where=str(path)) from None
    return from_gguf(path)


def from_gguf(path: Path) -> Facts:
    """Facts from a GGUF file's header; the parameters are counted in its tensors."""
    header = read_header(path)
    data = header.metadata
    arch = str(data.get("general.architecture", ""))

    def of(key: str, default: Any = None) -> Any:
        return data.get(f"{arch}.{key}", default)

    gap = "" if arch in _PLAIN else f"architecture {arch!r} is not planned for"
    if of("expert_count"):
        gap = "mixture of experts is not planned for"
    elif of("attention.kv_lora_rank"):
        gap = "compressed KV cache (MLA) is not planned for"
    shape = None
    if not gap:
        hidden, heads = of("embedding_length"), of("attention.head_count")
        window = of("attention.sliding_window")
        layers = of("block_count")
        # token_embd is hidden × vocabulary; without an output matrix the embedding serves as one.
        vocabulary = header.tensors["token_embd.weight"][-1]
        shape = Shape(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=of("attention.head_count_kv", heads),
            head_dim=of("attention.key_length", hidden // heads),
            feed_forward=of("feed_forward_length"),
            vocabulary=vocabulary,
            tied="output.weight" not in header.tensors,
            qkv_bias="blk.0.attn_q.bias" in header.tensors,
            norms=sum(bool(re.fullmatch(r"blk\.0\.(?!attn_[qk]_)\w*norm\.weight", n)) for n in header.tensors),
            qk_norm="blk.0.attn_q_norm.weight" in header.tensors,
            window=window,
            window_layers=_window_layers(arch, layers) if window else 0,
        )
    name = str(data.get("general.name") or data.get("general.basename") or path.stem)
    licence = str(data.get("general.license") or "")
    return Facts(name, header.parameters, shape, of("context_length"), f"file: {path.name}", licence, gap=gap)


def from_config(config: dict[str, Any], where: str, *, model: str = "") -> Facts:
    """Facts from a Hugging Face config.json; the parameters are added up from the shape."""
    arch = str(config.get("model_type", ""))
    gap = "" if arch in _PLAIN else f"architecture {arch!r} is not planned for"
    if config.get("num_local_experts") or config.get("num_experts"):
        gap = "mixture of experts is not planned for"
    if gap:
        return Facts(model or where, 0, None, None, f"configuration: {where}", gap=gap)
    try:
        hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        types = config.get("layer_types")
        sliding = sum(t == "sliding_attention" for t in types) if types else _window_layers(arch, layers)
        shape = Shape(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            feed_forward=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", arch.startswith("gemma"))),
            qkv_bias=arch == "qwen2" or bool(config.get("attention_bias")),
            norms=4 if arch in ("gemma2", "gemma3", "gemma3_text") else 2,
            qk_norm=arch in ("qwen3", "gemma3", "gemma3_text"),
            window=window,
            window_layers=sliding if window else 0,
        )
    except KeyError as e:
        raise UserError(f"config.json lacks {e.args[0]!r}", where=where) from None
    context = config.get("max_position_embeddings")
    return Facts(model or where, shape.counted, shape, context, f"configuration: {where}")


def _window_layers(arch: str, layers: int) -> int:
    """How many layers slide, where the file does not say: gemma 2 every other, gemma 3 five of six, mistral all."""
    if arch == "gemma2":
        return layers - layers // 2
    return layers - layers // 6 if arch.startswith("gemma3") else layers
