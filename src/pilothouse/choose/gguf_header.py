"""What does a GGUF file say of itself? Reads its header (metadata, tensor shapes) and not one weight.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pilothouse.core.errors import UserError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 28  # no count or length in a sane header is larger; guards against reading a damaged file for ever


@dataclass(frozen=True)
class Header:
    """metadata: values by key; an array is kept as its length only. tensors: shape by name."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    file_bytes: int

    @property
    def parameters(self) -> int:
        """Weights in all tensors; llama.cpp's precomputed RoPE factors are no parameters."""
        return sum(_product(shape) for name, shape in self.tensors.items() if not name.startswith("rope_"))


def read_header(path: Path) -> Header:
    """The header of the GGUF file at `path`."""
    try:
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise UserError("not a GGUF file", where=str(path))
            version = _number(f, "<I")
            if version not in (2, 3):
                raise UserError(f"GGUF version {version} is not known", where=str(path))
            n_tensors, n_keys = _count(f), _count(f)
            metadata = {}
            for _ in range(n_keys):
                key = _text(f)
                metadata[key] = _value(f, _number(f, "<I"))
            tensors = {}
            for _ in range(n_tensors):
                name, dims = _text(f), _number(f, "<I")
                tensors[name] = tuple(_number(f, "<Q") for _ in range(dims))
                f.seek(12, 1)  # type and offset
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as e:
        raise UserError(f"the GGUF header is damaged ({e})", where=str(path)) from None
    return Header(metadata, tensors, path.stat().st_size)


def _number(f: IO[bytes], form: str) -> Any:
    return struct.unpack(form, f.read(struct.calcsize(form)))[0]


def _count(f: IO[bytes]) -> int:
    n: int = _number(f, "<Q")
    if n > _MOST:
        raise ValueError(f"a count of {n}")
    return n


def _text(f: IO[bytes]) -> str:
    return f.read(_count(f)).decode()


def _value(f: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _text(f)
    if kind != _ARRAY:
        return _number(f, _SCALARS[kind])
    item, n = _number(f, "<I"), _count(f)
    if item == _STRING:
        for _ in range(n):
            f.seek(_count(f), 1)
    elif item == _ARRAY:
        for _ in range(n):
            _value(f, _ARRAY)
    else:
        f.seek(n * struct.calcsize(_SCALARS[item]), 1)
    return n


def _product(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
