"""Rows that share their prefix in one sequence: the same losses and the same gradients as rows on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pilothouse.tune.pack import is_exact, losses, pack, row_losses, shared
from pilothouse.tune.rows import Encoded
from pilothouse.tune.run import load_model

TOKENS = st.lists(st.integers(3, 300), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return load_model(tiny_folder).requires_grad_(True)


def plain_loss(model: Any, row: Encoded) -> torch.Tensor:
    """The reference: transformers' own loss of one row, with labels."""
    ids = torch.tensor([row.ids])
    labels = ids.clone()
    labels[0, : row.start] = -100
    return model(input_ids=ids, labels=labels).loss


@given(prefix=TOKENS, rests=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packed_rows_have_the_losses_they_have_alone(
    model: Any, prefix: list[int], rests: list[tuple[list[int], list[int]]]
) -> None:
    rows = [Encoded(str(i), (*prefix, *ask, *say), len(prefix) + len(ask)) for i, (ask, say) in enumerate(rests)]
    alone = [float(plain_loss(model, row).detach()) for row in rows]
    assert row_losses(model, rows, packed=True) == pytest.approx(alone, abs=2e-4)


def test_gradients_are_those_of_the_plain_batch(model: Any) -> None:
    rows = [
        Encoded("a", (5, 6, 7, 8, 9, 2), 4),
        Encoded("b", (5, 6, 7, 20, 21, 22, 23, 2), 5),
        Encoded("c", (5, 6, 9, 2), 3),
    ]
    learnt = sum(row.learnt for row in rows)
    model.zero_grad()
    (sum(plain_loss(model, row) * row.learnt for row in rows) / learnt).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    losses(model, pack(rows)).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
    model.zero_grad()


def test_the_shared_prefix_leaves_each_row_the_token_that_predicts_its_first_answer_token() -> None:
    same_question = [Encoded("a", (5, 6, 7, 8, 2), 3), Encoded("b", (5, 6, 7, 9, 2), 3)]
    assert shared(same_question) == 2
    assert shared([Encoded("a", (5, 6, 7), 2), Encoded("b", (9, 6, 7), 2)]) == 0


def test_the_prefix_is_laid_out_once() -> None:
    rows = [Encoded(str(i), (*range(10, 30), i + 40, 2), 21) for i in range(8)]
    laid = pack(rows)
    assert laid.input_ids.shape[1] == 20 + 8 * 2
    assert laid.targets.tolist() == [2] * 8
    assert laid.owner.tolist() == list(range(8))


def test_a_model_that_looks_across_rows_is_found_out(model: Any) -> None:
    rows = [Encoded("a", (5, 6, 7, 8, 9, 2), 4), Encoded("b", (5, 6, 30, 31, 2), 4)]
    assert is_exact(model, rows)

    class Leaky:
        device = "cpu"

        def __call__(self, **inputs: Any) -> Any:
            return model(**{**inputs, "attention_mask": torch.tril(torch.ones_like(inputs["attention_mask"]))})

    assert not is_exact(Leaky(), rows)
