"""Fixtures of the tuning tests: one tiny model for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder (Hugging Face layout)."""
    from tests.tune import tiny

    return tiny.save(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tokenizer(tiny_folder: Path) -> Any:
    """Its tokenizer."""
    from pilothouse.tune.run import load_tokenizer

    return load_tokenizer(tiny_folder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tests share the machine, and sums in one thread have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
