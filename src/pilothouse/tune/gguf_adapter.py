"""A PEFT LoRA adapter as a GGUF adapter, which llama.cpp adds to a base model per request."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from safetensors.numpy import load_file

from pilothouse.core.errors import UserError
from pilothouse.tune.gguf_names import Names
from pilothouse.tune.gguf_write import whole

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer's adapter, named and ordered as in GGUF: the layer's change is scale · b @ a."""

    name: str
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True, slots=True)
class Lora:
    """A whole adapter. scale is alpha/r, or alpha/sqrt(r) for rsLoRA."""

    pairs: tuple[Pair, ...]
    rank: int
    scale: float

    @property
    def alpha(self) -> float:
        """What llama.cpp must divide by the rank: alpha·sqrt(r) for rsLoRA."""
        return self.scale * self.rank


def read(folder: Path, names: Names) -> Lora:
    """A PEFT adapter's files. What GGUF cannot hold (DoRA, per-layer ranks, whole trained modules) is a UserError."""
    config: dict[str, Any] = msgspec.json.decode((folder / "adapter_config.json").read_bytes())
    refused = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices")
    wrong = next((key for key in refused if config.get(key)), None)
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or wrong:
        raise UserError(
            f"a GGUF adapter cannot hold {wrong or config.get('peft_type')!r}",
            where=str(folder.name),
            fix="Tune with method lora or rslora.",
        )
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Lora(tuple(_pairs(load_file(folder / "adapter_model.safetensors"), names)), rank, scale)


def _pairs(tensors: dict[str, np.ndarray], names: Names) -> Iterator[Pair]:
    modules = sorted({key.rpartition(".lora_")[0] for key in tensors})
    for module in modules:
        name = f"{names.of(module.removeprefix(_PREFIX))}.weight"
        a = tensors[f"{module}.lora_A.weight"].astype(np.float32)
        b = tensors[f"{module}.lora_B.weight"].astype(np.float32)
        yield Pair(name, a, np.ascontiguousarray(names.rows(name, b)))


def write(lora: Lora, arch: str, out: Path) -> None:
    """The GGUF adapter, in fp32."""
    with whole(out, arch) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)
        for pair in lora.pairs:
            writer.add_tensor(f"{pair.name}.lora_a", pair.a)
            writer.add_tensor(f"{pair.name}.lora_b", pair.b)
