"""Does it fit? Weights and KV cache against the memory that is free, before an engine is started."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pilothouse.core.errors import UserError
from pilothouse.serve.base import EngineSpec

_OVERHEAD = 256 * 2**20  # a llama.cpp process with SmolLM2 and its compute buffers: 150–250 MB beyond weights and KV


def check_memory(spec: EngineSpec) -> None:
    """UserError when the model cannot fit, with the largest number of streams that would."""
    if not spec.model.is_file():
        raise UserError("no such model file", where=str(spec.model))
    free = available()
    per_stream = kv_bytes_per_token(spec.model) * spec.context
    weights = spec.model.stat().st_size + sum(p.stat().st_size for _, p in spec.adapters if p.is_file()) + _OVERHEAD
    if free is None or weights + per_stream * spec.streams <= free:
        return
    fits = int((free - weights) // per_stream) if per_stream else 0
    hint = f"Set use.streams to {fits} or less." if fits >= 1 else "Choose a smaller model or quantisation."
    raise UserError(
        f"{spec.streams} streams of {spec.context} tokens need {(weights + per_stream * spec.streams) / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB are free",
        where=spec.model.name,
        fix=hint,
    )


def available() -> int | None:
    """Bytes that a new process can take (Linux's MemAvailable); None where the system does not tell."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    for line in info.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


@cache
def kv_bytes_per_token(model: Path) -> int:
    """2·layers·kv_heads·head_dim·2 bytes (f16 cache; grouped-query attention), from the GGUF's own metadata.

    0 where the `gguf` library is not installed: then only the weights are checked.
    """
    if find_spec("gguf") is None:
        return 0
    from gguf import GGUFReader

    try:
        reader = GGUFReader(model)
    except (ValueError, IndexError, OSError) as e:
        raise UserError(f"not a whole GGUF file ({e})", where=str(model), fix="Pull the model again.") from None

    def field(name: str) -> int:
        found = next((f for key, f in reader.fields.items() if key.endswith(name)), None)
        return int(found.contents()) if found is not None else 0

    heads = field(".attention.head_count")
    size = field(".attention.key_length") or (field(".embedding_length") // heads if heads else 0)
    return 2 * field(".block_count") * (field(".attention.head_count_kv") or heads) * size * 2
