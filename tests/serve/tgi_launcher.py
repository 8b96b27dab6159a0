"""Stands where `text-generation-launcher` would: takes its flags and environment, and serves the conformance server.

Flags are those of TGI's launcher/src/main.rs; another one ends it as it would end the launcher. TGI_TEST_LLAMA and
TGI_TEST_LLAMA_KEY name the llama.cpp that makes the words. Run by tests, through an executable of the launcher's name.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from tests.serve.tgi_server import TgiServer

PLAIN = (
    "model-id",
    "hostname",
    "shard-uds-path",
    "lora-adapters",
    "quantize",
    "dtype",
    "kv-cache-dtype",
    "usage-stats",
)
WHOLE = (
    *(
        "port",
        "prometheus-port",
        "master-port",
        "num-shard",
        "speculate",
        "max-concurrent-requests",
        "max-input-tokens",
    ),
    *("max-total-tokens", "max-batch-size", "max-batch-prefill-tokens", "max-batch-total-tokens"),
    "graceful-termination-timeout",
)


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser("text-generation-launcher", allow_abbrev=False)
    for name in PLAIN:
        parser.add_argument(f"--{name}")
    for name in WHOLE:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--cuda-memory-fraction", type=float)
    parser.add_argument("--json-output", action="store_true")
    parser.add_argument("--trust-remote-code", action="store_true")
    given = parser.parse_args()
    if given.max_input_tokens >= given.max_total_tokens or not Path(given.model_id).is_dir():
        said = {"level": "ERROR", "fields": {"message": f"cannot serve {given.model_id}"}, "target": "launcher"}
        raise SystemExit(json.dumps(said))
    names = [pair.partition("=")[0] for pair in (given.lora_adapters or "").split(",") if pair]
    adapters = {k: [{"id": i, "scale": float(n == k)} for i, n in enumerate(names)] for k in (None, *names)}
    llama, llama_key = os.environ["TGI_TEST_LLAMA"], os.environ["TGI_TEST_LLAMA_KEY"]
    server = TgiServer(llama, llama_key, adapters, key=os.environ["API_KEY"])
    server.port = given.port
    server.info.model_id = given.model_id
    server.info.max_total_tokens, server.info.max_input_tokens = given.max_total_tokens, given.max_input_tokens
    server.info.max_concurrent_requests = given.max_concurrent_requests
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with server:
        stop.wait()


if __name__ == "__main__":
    main()
