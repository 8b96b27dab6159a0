"""How are torch and its friends made ready: quiet, offline-safe, with how many threads and in which precision?"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from pilothouse.core.errors import need

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # OpenMP threads that wait spin for about 20 µs instead of milliseconds: as fast on free cores, and on a busy
    # machine two spinning threads do not starve each other. Read by libgomp when torch is first imported.
    "GOMP_SPINCOUNT": "10000",
}
_NOISY = ("transformers", "trl", "peft", "accelerate", "datasets", "torch", "huggingface_hub")


def ready(purpose: str, *libraries: str) -> None:
    """Check that the libraries are installed, then import transformers without its bars, hints and telemetry."""
    for library in ("torch", "transformers", *libraries):
        need(library, "tune", purpose)
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", module=r"(transformers|trl|peft|accelerate|datasets|torch)(\.|$)")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as hf

    hf.set_verbosity_error()
    hf.disable_progress_bar()


def bf16_is_fast(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Has the CPU bf16 arithmetic (AVX-512 or AMX)? Without it bf16 is emulated and slower than fp32."""
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text(errors="replace").splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
