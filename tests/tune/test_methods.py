"""Options of the methods are checked, and become what PEFT takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.tune.run import load_model


def test_every_method_is_listed_and_creates() -> None:
    for name in registry.modules("methods"):
        assert registry.create("methods", name).facts.exportable


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"method 'lora' has no option 'alhpa'. Did you mean 'alpha'\?"):
        registry.create("methods", "lora", alhpa=3)
    with pytest.raises(UserError, match="Known: alpha, dropout, r, targets"):
        registry.create("methods", "rslora", zzzz=3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("r", 0),
        ("r", 2.5),
        ("r", True),
        ("alpha", "32"),
        ("dropout", 1.0),
        ("rslora", 1),
        ("targets", []),
        ("targets", "q"),
    ],
)
def test_a_bad_value_is_named(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"tune.options.{option}"):
        registry.create("methods", "lora", **{option: value})


def test_all_linear_layers_but_the_head_are_targets(tiny_folder: Path) -> None:
    config = registry.create("methods", "lora", r=4).config(load_model(tiny_folder))
    assert set(config.target_modules) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_a_layer_that_is_not_there_is_an_error(tiny_folder: Path) -> None:
    method = registry.create("methods", "lora", targets=["q_prj"])
    with pytest.raises(UserError, match=r"no linear layer 'q_prj'. Did you mean 'q_proj'\?"):
        method.config(load_model(tiny_folder))


def test_rslora_scales_by_the_root_of_the_rank(tiny_folder: Path) -> None:
    from peft import get_peft_model

    model = load_model(tiny_folder)
    tuned = get_peft_model(model, registry.create("methods", "rslora", r=16, alpha=8).config(model))
    layer = next(m for n, m in tuned.named_modules() if n.endswith("q_proj"))
    assert layer.scaling == {"default": 8 / 4}
