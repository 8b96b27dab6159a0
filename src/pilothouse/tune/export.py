"""From a trained adapter to what llama.cpp serves: a Q8_0 base and a GGUF adapter beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pilothouse.core.errors import need
from pilothouse.core.records import Asset, Outcome, Report
from pilothouse.store.runs import Context
from pilothouse.tune.unpack import gguf_file

BASE, ADAPTER = "model.gguf", "adapter.gguf"


def run(ctx: Context, model: Asset, weights: Asset, adapter: Asset) -> Outcome:
    """Outputs `base` (model.gguf, Q8_0 or better) and `adapter` (adapter.gguf).

    The adapter stays apart from the base: base and tuned model are served by one process, and no rounding touches what
    was learnt. A base that is already Q8_0 or better is served as it is.
    """
    need("gguf", "tune", "exporting to GGUF")
    from pilothouse.tune import gguf_adapter, gguf_write
    from pilothouse.tune.gguf_names import names

    out = ctx.folder / "export"
    shutil.rmtree(out, ignore_errors=True)
    base = _base(ctx, model, weights, out)
    reader = gguf_write.read(ctx.store.folder(base) / BASE)
    arch = gguf_write.text(reader, "general.architecture")
    ctx.progress.begin("writing the adapter")
    lora = gguf_adapter.read(ctx.store.folder(adapter), names(ctx.store.folder(weights), arch))
    gguf_adapter.write(lora, arch, out / ADAPTER)
    kept = ctx.store.add_asset(
        "adapter",
        f"{adapter.name}-gguf",
        {ADAPTER: out / ADAPTER},
        meta={"format": "gguf", "from": adapter.digest, "base": base.digest},
        licence=adapter.licence,
        origin=adapter.ref,
        move=True,
    )
    shutil.rmtree(out, ignore_errors=True)
    ctx.progress.end()
    facts = {
        "base": f"{base.ref}, {base.size / 1e6:.0f} MB",
        "adapter": f"{kept.ref}, {kept.size / 1e6:.1f} MB",
        "layers": f"{len(lora.pairs)} with rank {lora.rank}, scale {lora.scale:g}",
    }
    summary = f"The base is {base.size / 1e6:.0f} MB in 8 bits; the adapter adds {kept.size / 1e6:.0f} MB."
    return Outcome(Report("export", "Export", summary, facts=facts), {"base": base, "adapter": kept})


def _base(ctx: Context, model: Asset, weights: Asset, out: Path) -> Asset:
    """The model as model.gguf in Q8_0 or better."""
    from pilothouse.tune import gguf_base, gguf_write

    name = gguf_file(model)
    if name is None:
        ctx.progress.begin("writing the base in 8 bits")
        gguf_base.write(ctx.store.folder(weights), out / BASE, "Q8_0", title=model.name, done=ctx.progress.advance)
    else:
        source = ctx.store.folder(model) / name
        reader = gguf_write.read(source)
        if gguf_write.is_faithful(reader):
            if name == BASE and len(model.files) == 1:
                return model
            return _keep(ctx, model, source, move=False)
        ctx.progress.begin("writing the base in 8 bits", len(reader.tensors))
        gguf_write.rewrite(reader, out / BASE, "Q8_0", done=ctx.progress.advance)
    return _keep(ctx, model, out / BASE, move=True)


def _keep(ctx: Context, model: Asset, path: Path, *, move: bool) -> Asset:
    return ctx.store.add_asset(
        "model",
        f"{model.name}-q8_0",
        {BASE: path},
        meta={"format": "gguf", "from": model.digest},
        licence=model.licence,
        origin=model.ref,
        move=move,
    )
