"""From what was pulled to weights that can be trained: a GGUF becomes a Hugging Face folder, such a folder passes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.errors import UserError, need
from pilothouse.core.progress import Progress
from pilothouse.core.records import Asset, Outcome, Report
from pilothouse.store.runs import Context
from pilothouse.tune import pretokenizer
from pilothouse.tune.libraries import ready

_TOKENIZER_NOISE = ("is_local", "local_files_only", "backend")


def gguf_file(model: Asset) -> str | None:
    """The model's GGUF file: `model.gguf`, or the only one. None when there is none."""
    found = [f.path for f in model.files if f.path.endswith(".gguf")]
    if "model.gguf" in found or len(found) == 1:
        return "model.gguf" if "model.gguf" in found else found[0]
    if found:
        raise UserError(
            f"{model.ref} holds {len(found)} GGUF files ({', '.join(found[:4])})",
            fix="Name one in the source, behind '#'.",
        )
    return None


def is_hugging_face(model: Asset) -> bool:
    """Is it already config.json and safetensors?"""
    names = [f.path for f in model.files]
    return "config.json" in names and any(n.endswith(".safetensors") for n in names)


def run(ctx: Context, model: Asset) -> Outcome:
    """Make (or find) the weights in Hugging Face layout: output `weights`.

    They are kept in fp32, though that is twice the disk of bf16: a GGUF's values (4 bits times an fp16 scale) do not
    fit bf16's 8 digits, and rounding them again would make the reference of parity differ from the file that is served.
    """
    if is_hugging_face(model):
        summary = f"{model.name} already has the layout that training needs."
        return Outcome(Report("unpack", "Weights", summary, facts={"asset": model.ref}), {"weights": model})
    name = gguf_file(model)
    if name is None:
        raise UserError(
            f"{model.ref} is neither a GGUF file nor config.json with safetensors",
            fix="Pick another source for the candidate.",
        )
    need("gguf", "tune", "unpacking a GGUF model")
    ready("unpacking a GGUF model")
    target = ctx.folder / "weights"
    shutil.rmtree(target, ignore_errors=True)
    facts = _convert(ctx.store.folder(model), name, target, ctx.progress)
    files = {p.relative_to(target).as_posix(): p for p in sorted(target.rglob("*")) if p.is_file()}
    weights = ctx.store.add_asset(
        "model",
        f"{model.name}-weights",
        files,
        meta={"format": "huggingface", "from": model.digest},
        licence=model.licence,
        origin=model.ref,
        move=True,
    )
    shutil.rmtree(target, ignore_errors=True)
    ctx.progress.end()
    for key, value in facts.items():
        ctx.log.info("%s: %s", key, value)
    summary = f"{model.name} was unpacked from {facts['quantisation']} to fp32 weights of {weights.size / 1e6:.0f} MB."
    return Outcome(Report("unpack", "Weights", summary, facts={"asset": weights.ref, **facts}), {"weights": weights})


def _convert(folder: Path, name: str, target: Path, progress: Progress) -> dict[str, str]:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        reader = gguf.GGUFReader(folder / name)
    except (ValueError, OSError, IndexError) as e:
        raise UserError(f"not a readable GGUF file ({e})", where=name, fix="Pull the model again.") from None
    field = reader.get_field("tokenizer.ggml.pre")
    pre = str(field.contents()) if field else "gpt-2"
    kinds = Counter(t.tensor_type.name for t in reader.tensors)
    count = sum(int(t.n_elements) for t in reader.tensors)
    progress.begin("unpacking weights", len(reader.tensors))
    try:
        with _shown_by(progress):
            model = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
    except (ValueError, KeyError, NotImplementedError) as e:
        raise UserError(
            f"transformers cannot read this GGUF's architecture ({e})",
            where=name,
            fix="Take the model's safetensors version instead (hub:ORG/NAME).",
        ) from None
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if not tokenizer.chat_template:
        raise UserError("the GGUF has no chat template", where=name, fix="Pick an instruction-tuned model.")
    model.save_pretrained(target, max_shard_size="4GB")
    tokenizer.save_pretrained(target)
    known = pretokenizer.put_right(target / "tokenizer.json", pre)
    _scrub(target)
    return {
        "quantisation": ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common()),
        "parameters": f"{count:,}",
        "architecture": str(model.config.model_type),
        "tokenizer rule": pre if known else f"{pre} (unknown here; parity compares the tokens)",
    }


@contextmanager
def _shown_by(progress: Progress) -> Iterator[None]:
    """transformers draws a bar of its own over the tensors, whatever it is told; here it becomes ours."""
    from transformers import modeling_gguf_pytorch_utils as reading

    def counted(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for tensor in tensors:
            yield tensor
            progress.advance(1)

    before = getattr(reading, "tqdm", None)
    reading.tqdm = counted
    try:
        yield
    finally:
        reading.tqdm = before


def _scrub(target: Path) -> None:
    """Take out what tells of this machine and not of the model, so that equal models have equal digests."""
    path = target / "tokenizer_config.json"
    settings: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    path.write_bytes(
        msgspec.json.format(msgspec.json.encode({k: v for k, v in settings.items() if k not in _TOKENIZER_NOISE}))
    )
