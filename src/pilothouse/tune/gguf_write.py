"""How is a GGUF file written anew with other values? Metadata is copied, tensors are quantised by `gguf.quants`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from pilothouse.core.errors import UserError

Quantisation = Literal["Q8_0", "Q4_0", "Q4_1", "F16"]
_FILE_TYPE = {
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
}
_WRITTEN_BY_WRITER = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")
_REPLACED = ("general.file_type", "general.quantization_version")

Change = Callable[[str, np.ndarray], np.ndarray]


def read(path: Path) -> Any:
    """A reader over the file (memory-mapped); a file that is no GGUF is a UserError."""
    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError) as e:
        raise UserError(f"not a readable GGUF file ({e})", where=path.name, fix="Pull the model again.") from None


def text(reader: Any, key: str) -> str:
    """A metadata value as text; '' when it is not there."""
    field = reader.get_field(key)
    return str(field.contents()) if field else ""


def is_faithful(reader: Any) -> bool:
    """Are all tensors in formats as good as Q8_0, so that the file can be served as it is?"""
    return all(t.tensor_type in (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0) for t in reader.tensors)


def values(tensor: Any) -> np.ndarray:
    """A tensor's values as fp32, in rows."""
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


def kind_for(name: str, shape: tuple[int, ...], wanted: Quantisation) -> Kind:
    """The format of one tensor: vectors stay fp32, embeddings and the output head are never below 8 bits."""
    if len(shape) < 2:
        return Kind.F32
    if wanted != "F16" and shape[-1] % 32:
        return Kind.F16  # blocks hold 32 values of a row
    if wanted.startswith("Q4") and name in ("token_embd.weight", "output.weight"):
        return Kind.Q8_0
    return Kind[wanted]


@contextmanager
def whole(path: Path, arch: str) -> Iterator[Any]:
    """A writer whose file appears at `path` when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, arch)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def rewrite(
    reader: Any, out: Path, quantisation: Quantisation, *, change: Change | None = None, done: Callable[[], None]
) -> None:
    """The same model in another quantisation, each tensor's fp32 values passed through `change` first."""
    with whole(out, text(reader, "general.architecture")) as writer:
        for field in reader.fields.values():
            if field.name in _WRITTEN_BY_WRITER or field.name in _REPLACED:
                continue
            main, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), main, sub)
        finish(writer, quantisation)
        for tensor in reader.tensors:
            data = values(tensor)
            add(writer, tensor.name, change(tensor.name, data) if change else data, quantisation)
            done()


def finish(writer: Any, quantisation: Quantisation) -> None:
    """The metadata that says how the tensors are kept."""
    writer.add_file_type(_FILE_TYPE[quantisation])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add(writer: Any, name: str, data: np.ndarray, quantisation: Quantisation) -> None:
    """Add one tensor, quantised as its name and shape ask."""
    kind = kind_for(name, data.shape, quantisation)
    writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(data, np.float32), kind), raw_dtype=kind)
