"""Fixtures of the real engines: SmolLM2 as a Hugging Face folder, an adapter made by PEFT, and where vLLM is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pilothouse.core.progress import Silent
from pilothouse.serve.engines import vllm
from pilothouse.store import runs
from pilothouse.store.store import Store
from tests.conftest import CACHE

MakeAdapter = Callable[[str, int, int], Path]


@pytest.fixture(scope="session")
def vllm_here() -> None:
    """Skips with the engine's own reason where vLLM cannot run."""
    check = vllm.create().check()
    if not check.runs:
        pytest.skip(f"{check.reason}. Install: {check.install}")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real SmolLM2 as config.json and safetensors, made once as the unpack stage makes it."""
    target = CACHE / "smollm2-hf"
    if not (target / "config.json").is_file():
        pytest.importorskip("transformers")
        pytest.importorskip("gguf")
        from pilothouse.tune import unpack

        store = Store.open(tmp_path_factory.mktemp("unpack") / "home")
        model = store.add_asset("model", "smollm2", {"model.gguf": smollm2})
        done = runs.execute(store, "unpack", "once", {}, {"model": model}, lambda ctx: unpack.run(ctx, model), Silent())
        part = CACHE / "smollm2-hf.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(store.folder(runs.output(store, done, "weights")), part)
        store.close()
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    return target


@pytest.fixture(scope="session")
def make_adapter(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """A random LoRA adapter of a rank, loud enough to change every answer, saved by PEFT itself."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")

    def make(name: str, rank: int, seed: int) -> Path:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32)
        config = peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(base, config)
        with torch.no_grad():
            for part, values in model.named_parameters():
                if "lora_" in part:
                    values.normal_(0, 0.08 if rank <= 16 else 0.02)
        folder = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(folder)
        return folder

    return make
