"""The process that `llamacpp` launches: xllamacpp's server with the settings from argv, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from pilothouse.serve.engines.llamacpp import STARTING
from pilothouse.serve.parent import die_with_parent


def main() -> None:
    """Serve until SIGTERM. A model that cannot be loaded ends the process with the reason in its log."""
    settings = msgspec.json.decode(sys.argv[1])
    die_with_parent(settings["parent"])
    print(STARTING, file=sys.stderr, flush=True)
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = settings["model"]
    p.model_alias = {settings["alias"]}
    p.hostnames = ["127.0.0.1"]
    p.port = settings["port"]
    p.n_parallel = settings["streams"]
    p.n_ctx = settings["context"] * settings["streams"]
    p.cpuparams.n_threads = settings["threads"]
    p.cpuparams_batch.n_threads = settings["threads"]
    p.endpoint_metrics = True
    p.ui = False
    p.verbosity = 2  # warnings and errors: eight lines a request would fill the disk
    p.api_keys = [os.environ["PILOTHOUSE_ENGINE_KEY"]]
    # The cache of prompts in RAM restores states computed with another adapter (docs/decisions.md, 19).
    p.cache_ram_mib = 0
    # Scale 0: an adapter speaks only when a request names it.
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; only the supervisor decides
    server = xllamacpp.Server(p)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    stop.wait()
    del server


if __name__ == "__main__":
    main()
