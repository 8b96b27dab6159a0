"""A tuned model as one GGUF: the adapter folded into the base's weights, then quantised.

Rounding a merged model to 4 bits can erase what training added (the changes are smaller than the steps of the grid):
release.parity measures that, and fails such a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pilothouse.core.errors import UserError
from pilothouse.tune import gguf_adapter, gguf_write
from pilothouse.tune.gguf_names import names
from pilothouse.tune.gguf_write import Quantisation


def merge(
    model_gguf: Path,
    weights_dir: Path,
    adapter_dir: Path,
    out: Path,
    quantisation: Quantisation = "Q8_0",
    *,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Write `out`: the GGUF's tensors plus the adapter's changes, in `quantisation`; `done` is called per tensor."""
    reader = gguf_write.read(model_gguf)
    lora = gguf_adapter.read(adapter_dir, names(weights_dir, gguf_write.text(reader, "general.architecture")))
    pairs = {pair.name: pair for pair in lora.pairs}
    missing = pairs.keys() - {tensor.name for tensor in reader.tensors}
    if missing:
        raise UserError(f"the adapter changes {sorted(missing)[0]!r}, which the model lacks", where=model_gguf.name)

    def change(name: str, data: np.ndarray) -> np.ndarray:
        pair = pairs.get(name)
        return data if pair is None else data + np.float32(lora.scale) * (pair.b @ pair.a)

    gguf_write.rewrite(reader, out, quantisation, change=change, done=done)
