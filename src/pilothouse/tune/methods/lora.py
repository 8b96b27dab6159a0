"""Low-rank adapters beside the linear layers (Hu et al. 2021, LoRA): small, mergeable, swapped per request."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar

from pilothouse.core.errors import UserError
from pilothouse.tune.base import Facts, linear_names, number, only_known

NEEDS = {"peft": "tune", "torch": "tune"}


@dataclass(frozen=True, slots=True)
class Lora:
    """r: rank. alpha: the adapter's output is scaled by alpha/r, or by alpha/sqrt(r) with rslora. targets: layers."""

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    facts: ClassVar[Facts] = Facts(mergeable=True, hot_swappable=True, exportable=True)

    def config(self, model: Any) -> Any:
        """PEFT's configuration; layers named in `targets` must exist in the model."""
        from peft import LoraConfig

        known = linear_names(model)
        names = known if self.targets == "all-linear" else list(self.targets)
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
                raise UserError(f"the model has no linear layer {name!r}", where="tune.options.targets", fix=fix)
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=sorted(names),
            use_rslora=self.rslora,
            bias="none",
            task_type="CAUSAL_LM",
        )


def create(**options: Any) -> Lora:
    """The method with checked options."""
    only_known(options, ("r", "alpha", "dropout", "targets", "rslora"), "lora")
    checked = dict(options)
    if "r" in options:
        number("r", options["r"], 1, 512, whole=True)
    if "alpha" in options:
        number("alpha", options["alpha"], 1e-3, 4096)
    if "dropout" in options:
        number("dropout", options["dropout"], 0, 0.9)
    if not isinstance(options.get("rslora", False), bool):
        raise UserError(f"{options['rslora']!r} is not true or false", where="tune.options.rslora")
    targets = options.get("targets", "all-linear")
    if targets != "all-linear":
        if isinstance(targets, str) or not targets or not all(isinstance(t, str) for t in targets):
            raise UserError(
                f"{targets!r} is neither 'all-linear' nor a list of layer names", where="tune.options.targets"
            )
        checked["targets"] = tuple(targets)
    return Lora(**checked)
