"""The process that `llamacpp` launches: xllamacpp's server with the settings from argv, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from pilothouse.serve.engines._become import STARTING

_FLASH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}


def params(settings: Mapping[str, Any]) -> Any:
    """xllamacpp's CommonParams for our settings."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = settings["model"]
    p.model_alias = {settings["alias"]}
    p.hostnames = ["127.0.0.1"]
    p.port = settings["port"]
    p.n_parallel = settings["streams"]
    p.n_ctx = settings["context"] * settings["streams"]
    p.cpuparams.n_threads = settings["threads"]
    p.cpuparams_batch.n_threads = settings["threads_batch"]
    p.n_batch, p.n_ubatch = settings["batch"], settings["ubatch"]
    p.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings['kv_type'].upper()}")
    p.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings['kv_type_v'].upper()}")
    flash = xllamacpp.llama_flash_attn_type
    p.flash_attn_type = getattr(flash, f"LLAMA_FLASH_ATTN_TYPE_{_FLASH[settings['flash_attention']]}")
    p.kv_unified = settings["kv_unified"]
    if settings["gpu_layers"] is not None:
        p.n_gpu_layers = settings["gpu_layers"]
    if settings["embeddings"] != "off":
        p.embedding = True
        pooling = xllamacpp.llama_pooling_type
        p.pooling_type = getattr(pooling, f"LLAMA_POOLING_TYPE_{settings['embeddings'].upper()}")
    p.endpoint_metrics = True
    p.ui = False
    p.verbosity = 2  # warnings and errors: eight lines a request would fill the disk
    # The cache of prompts in RAM restores states computed with another adapter (docs/decisions.md, 19): the engine
    # allows it without adapters only.
    p.cache_ram_mib = settings["prompt_cache_mb"]
    # Scale 0: an adapter speaks only when a request names it.
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    return p


def main() -> None:
    """Serve until SIGTERM. A model that cannot be loaded ends the process with the reason in its log."""
    settings = msgspec.json.decode(sys.argv[1])
    print(STARTING, "llama.cpp", file=sys.stderr, flush=True)
    import xllamacpp

    p = params(settings)
    p.api_keys = [os.environ["PILOTHOUSE_ENGINE_KEY"]]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; only the supervisor decides
    server = xllamacpp.Server(p)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    stop.wait()
    del server


if __name__ == "__main__":
    main()
