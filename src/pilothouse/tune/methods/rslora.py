"""LoRA scaled by alpha/sqrt(r) (Kalajdzievski 2023, rsLoRA): keeps its strength as the rank grows."""

from __future__ import annotations

from typing import Any

from pilothouse.tune.base import only_known
from pilothouse.tune.methods import lora

NEEDS = lora.NEEDS


def create(**options: Any) -> lora.Lora:
    """LoRA's options but `rslora`, which is on."""
    only_known(options, ("r", "alpha", "dropout", "targets"), "rslora")
    return lora.create(**options, rslora=True)
