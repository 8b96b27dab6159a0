"""What a method of adaptation is: checked options in, a PEFT configuration out, and what the result is good for."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pilothouse.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Facts:
    """mergeable: folds into the weights. hot_swappable: one base serves many. exportable: as a GGUF adapter."""

    mergeable: bool
    hot_swappable: bool
    exportable: bool


class Method(Protocol):
    """A member of `tune/methods`. `create(**options)` has checked the options; `config` builds PEFT's configuration."""

    facts: Facts

    def config(self, model: Any) -> Any:
        """PEFT's configuration for this model (a transformers model)."""


def only_known(options: Mapping[str, Any], known: Collection[str], method: str) -> None:
    """Raise for the first option that the method does not have, with the nearest one that it has."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
            raise UserError(f"method {method!r} has no option {name!r}", where="tune.options", fix=fix)


def number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> float:
    """The option's value when it is a number between low and high; else a UserError that says so."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise UserError(f"{value!r} is not {what} between {low:g} and {high:g}", where=f"tune.options.{name}")
    return value


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of the model's linear layers but the output head: what LoRA can be put on."""
    import torch

    head = model.get_output_embeddings()
    return sorted(
        {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    )
