"""Does the model fit? Bytes of weights, KV cache and working memory against the memory of the device."""

from __future__ import annotations

from pathlib import Path

from pilothouse.choose.base import Facts, Fit, Shape

# Bits a weight, from ggml's block layouts (ggml-common.h): e.g. Q8_0 is 32 int8 and one fp16 scale, 34 bytes.
BITS = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 34 / 32 * 8,
    "Q6_K": 210 / 256 * 8,
    "Q5_1": 24 / 32 * 8,
    "Q5_0": 22 / 32 * 8,
    "Q4_1": 20 / 32 * 8,
    "Q4_0": 18 / 32 * 8,
}
SERVED = "Q8_0"  # what `tune/export` writes and the engine loads: rounding a tuned model further loses the tuning
KV_BYTES = 2  # fp16, the engines' default
# An engine's own memory beside weights and cache: the process, and buffers for a batch of 512 tokens. Measured with
# llama.cpp (xllamacpp 2026.10) on SmolLM2-135M Q4_1, 4 streams × 1,024: 268 MB resident = 98 + 94 + 76; this gives 72.
_PROCESS = 60_000_000
_BATCH = 512
USABLE = 0.9  # the rest is left to the system


def weight_bytes(parameters: int, quantisation: str = SERVED) -> int:
    """parameters × bits / 8. The few vectors that stay fp32 are under 0.3 % of any model here."""
    return round(parameters * BITS[quantisation] / 8)


def kv_bytes(shape: Shape, tokens: int, *, width: int = KV_BYTES) -> int:
    """KV cache of one stream of `tokens`: 2·K·d·b for each token and layer (Kwon et al. 2023 §3; FACTS 5).

    K = key-value heads (all heads in MHA, fewer in GQA). A sliding-window layer keeps the last `window` tokens only.
    """
    sliding = shape.window_layers if shape.window else 0
    seen = (shape.layers - sliding) * tokens + sliding * min(tokens, shape.window or tokens)
    return 2 * shape.kv_heads * shape.head_dim * width * seen


def working_bytes(shape: Shape, streams: int) -> int:
    """The process, fp32 activations of one layer for a batch, and fp32 logits for each stream: an allowance."""
    widest = 2 * shape.feed_forward + 4 * shape.hidden
    return _PROCESS + 4 * _BATCH * widest + 4 * streams * shape.vocabulary


def fit(facts: Facts, *, context: int, streams: int, memory: int, quantisation: str = SERVED) -> Fit:
    """What serving `streams` requests of `context` tokens needs, against the usable share of `memory` bytes."""
    shape = facts.shape
    return Fit(
        weights=weight_bytes(facts.parameters, quantisation),
        kv_cache=None if shape is None else streams * kv_bytes(shape, context),
        working=_PROCESS if shape is None else working_bytes(shape, streams),
        usable=round(memory * USABLE),
    )


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit when that is lower."""
    import os

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = limit.read_text().strip() if limit.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total
