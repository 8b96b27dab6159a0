"""Export: a base in 8 bits and an adapter beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.core.progress import Silent
from pilothouse.core.records import Asset
from pilothouse.store import runs
from pilothouse.store.store import Store
from pilothouse.tune import gguf_base, gguf_write
from pilothouse.tune.export import run
from tests.tune import tiny
from tests.tune.test_gguf import adapter


def export(store: Store, model: Asset, weights: Asset, trained: Asset) -> runs.Run:
    inputs = {"model": model, "weights": weights, "adapter": trained}
    return runs.execute(store, "export", "t", {}, inputs, lambda c: run(c, model, weights, trained), Silent())


@pytest.fixture
def assets(store: Store, tiny_folder: Path, tmp_path: Path) -> tuple[Asset, Asset]:
    folder, _ = adapter(tiny_folder, tmp_path / "a")
    files = {n: folder / n for n in ("adapter_config.json", "adapter_model.safetensors")}
    return tiny.weights(store, tiny_folder), store.add_asset("adapter", "t", files)


def test_a_model_without_a_gguf_gets_one(store: Store, assets: tuple[Asset, Asset]) -> None:
    weights, trained = assets
    done = export(store, weights, weights, trained)
    base, kept = runs.output(store, done, "base"), runs.output(store, done, "adapter")
    assert [f.path for f in base.files] == ["model.gguf"]
    assert [f.path for f in kept.files] == ["adapter.gguf"]
    assert base.licence == "MIT"
    assert gguf_write.is_faithful(gguf_write.read(store.folder(base) / "model.gguf"))


def test_a_four_bit_file_is_served_in_eight_bits_and_an_eight_bit_file_as_it_is(
    store: Store, assets: tuple[Asset, Asset], tiny_folder: Path, tmp_path: Path
) -> None:
    weights, trained = assets
    gguf_base.write(tiny_folder, tmp_path / "four.gguf", "Q4_0", title="tiny", done=lambda: None)
    gguf_base.write(tiny_folder, tmp_path / "eight.gguf", "Q8_0", title="tiny", done=lambda: None)
    four = store.add_asset("model", "four", {"four.gguf": tmp_path / "four.gguf"})
    base = runs.output(store, export(store, four, weights, trained), "base")
    assert gguf_write.is_faithful(gguf_write.read(store.folder(base) / "model.gguf"))
    eight = store.add_asset("model", "eight", {"eight.gguf": tmp_path / "eight.gguf"})
    kept = runs.output(store, export(store, eight, weights, trained), "base")
    assert kept.files[0].sha256 == eight.files[0].sha256
    named = store.add_asset("model", "named", {"model.gguf": tmp_path / "eight.gguf"})
    assert runs.output(store, export(store, named, weights, trained), "base").digest == named.digest
