"""Train an adapter on a dataset's rows: from weights, rows and settings to a PEFT adapter and its report."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.core.messages import Row
from pilothouse.core.project.schema import Tune
from pilothouse.core.records import Asset, Outcome
from pilothouse.store import rows as store_rows
from pilothouse.store.runs import Context
from pilothouse.tune import checkpoints, report
from pilothouse.tune.libraries import bf16_is_fast, ready
from pilothouse.tune.rows import Encoded, encode, rendered


def run(ctx: Context, settings: Tune, weights: Asset, dataset: Asset, system_prompt: str) -> Outcome:
    """Train, or go on from the newest whole checkpoint in the run's folder. Output `adapter`."""
    ready("tuning", "peft", "trl", "datasets", "accelerate")
    method = registry.create("methods", settings.method, where="tune.method", **settings.options)
    train, dev = store_rows.read(ctx.store, dataset, "train"), store_rows.read(ctx.store, dataset, "dev")
    if not train:
        raise UserError(f"{dataset.ref} has no training rows", fix="Check data.train in pilothouse.yaml.")
    folder = ctx.store.folder(weights)
    with _threads(settings.threads or cores()):
        tokenizer = load_tokenizer(folder)
        ctx.progress.begin("rendering rows")
        rows = encode(tokenizer, train, system_prompt, max_tokens=settings.max_tokens)
        held_out = encode(tokenizer, _sample(dev, settings), system_prompt, max_tokens=settings.max_tokens)
        read, learnt = rendered(tokenizer, rows[0])
        ctx.log.info("row %s: read only: %r", rows[0].id, read)
        ctx.log.info("row %s: learnt: %r", rows[0].id, learnt)
        share, packed, curve, model = _train(ctx, settings, method, folder, tokenizer, rows, held_out)
        ctx.progress.begin("keeping the adapter")
        adapter = _keep(ctx, settings, weights, model)
        ctx.progress.end()
    facts = {
        "adapter": f"{adapter.ref}, {adapter.size / 1e6:.1f} MB",
        "rows": f"{len(rows)} to train, {len(held_out)} held out for the dev loss",
        "precision": "bf16 arithmetic, fp32 adapter" if bf16_is_fast() else "fp32",
        "threads": str(settings.threads or cores()),
        "batches": "rows share their common prefix"
        if packed
        else "rows one by one (this architecture allows no packing)",
    }
    example = report.Example(rows[0].id, read, learnt, rows[0].start, rows[0].learnt)
    return Outcome(report.build(settings, curve, share, facts, example), {"adapter": adapter})


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of weights in Hugging Face layout, chat template included."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_model(folder: Path) -> Any:
    """The weights in fp32, frozen, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.requires_grad_(False)


def _train(
    ctx: Context,
    settings: Tune,
    method: Any,
    folder: Path,
    tokenizer: Any,
    rows: Sequence[Encoded],
    dev: Sequence[Encoded],
) -> tuple[tuple[int, int], bool, checkpoints.Curve, Any]:
    import torch
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from pilothouse.tune.pack import is_exact
    from pilothouse.tune.trainer import RowTrainer, Watch, hold_in_bf16, stopping

    root = ctx.folder / "checkpoints"
    found = checkpoints.newest(root) if root.exists() else None
    done = found[0] if found else 0
    if done:
        ctx.progress.note(f"going on from the checkpoint of step {done}")
        ctx.log.info("going on from step %d", done)
    ctx.progress.begin("loading weights")
    torch.manual_seed(settings.seed)
    base = load_model(folder)
    packed = is_exact(base, rows)
    model = get_peft_model(base, method.config(base))
    trained, total = (int(n) for n in model.get_nb_trainable_parameters())
    bf16 = bf16_is_fast()
    if bf16:
        hold_in_bf16(model)
    curve = checkpoints.Curve(ctx.folder / "curve.jsonl", done)
    watch = Watch(curve, dev, settings, ctx.progress.advance)
    watch.trainer = trainer = RowTrainer(model, tokenizer, settings, rows, folder=root, bf16=bf16, packed=packed)
    trainer.add_callback(watch)
    if found and done >= settings.steps:
        set_peft_model_state_dict(model, load_file(found[1] / "adapter_model.safetensors"))
        return (trained, total), packed, curve, model
    watch.score(0)
    ctx.progress.begin("training", settings.steps)
    ctx.progress.advance(done)
    with stopping(watch):
        trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    ctx.log.info("trained %d steps", settings.steps)
    return (trained, total), packed, curve, model


def _keep(ctx: Context, settings: Tune, weights: Asset, model: Any) -> Asset:
    """Keep PEFT's two files as an asset, without this machine's paths and in fixed order: equal work, equal digest."""
    out = ctx.folder / "adapter"
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    path = out / "adapter_config.json"
    config: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    config["base_model_name_or_path"] = f"{weights.kind}@{weights.digest[:16]}"
    config["target_modules"] = sorted(config["target_modules"])
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config, order="sorted")))
    return ctx.store.add_asset(
        "adapter",
        f"{weights.name.removesuffix('-weights')}-{settings.method}",
        {name: out / name for name in ("adapter_config.json", "adapter_model.safetensors")},
        meta={"format": "peft", "base": weights.digest, "method": settings.method},
        licence=weights.licence,
        origin=f"run:{ctx.id}",
        move=True,
    )


def _sample(dev: list[Row], settings: Tune) -> list[Row]:
    """The dev rows whose loss is followed: a seeded draw, in file order."""
    if len(dev) <= settings.eval_rows:
        return dev
    chosen = sorted(random.Random(settings.seed).sample(range(len(dev)), settings.eval_rows))
    return [dev[i] for i in chosen]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
