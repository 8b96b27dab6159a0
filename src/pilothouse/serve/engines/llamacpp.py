"""llama.cpp, embedded: xllamacpp's own HTTP server in a process of its own, with LoRA adapters chosen per request."""

from __future__ import annotations

import os
import re
import secrets
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import msgspec

from pilothouse.core.errors import UserError, need
from pilothouse.core.machine import cores
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, no_adapter_call
from pilothouse.serve.engines._options import Option, check_needs, read_options
from pilothouse.serve.memory import check_memory

NEEDS = {"xllamacpp": "llamacpp"}
OPTIONS = (Option("threads", int, None, "Threads that generate; default: every core this process may use.", low=1),)
STARTING = "pilothouse: starting llama.cpp"


@dataclass(frozen=True)
class LlamaCpp:
    """Knowledge of llama.cpp's server (docs: tools/server/README.md of llama.cpp)."""

    format: ClassVar[Format] = "gguf"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"streaming", "logprobs", "tools", "structured_output", "adapters", "prefix_cache"}
    )
    adapter_call = staticmethod(no_adapter_call)

    def check(self) -> Check:
        """xllamacpp carries llama.cpp with it, so installed means runnable."""
        install = "pip install 'pilothouse[llamacpp]'"
        try:
            return Check(version("xllamacpp"), True, install=install)
        except PackageNotFoundError:
            return Check(None, False, "xllamacpp is not installed", install)

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """A Python process that runs the server. Option `threads`: default every core this process may use."""
        need("xllamacpp", "llamacpp", "the llama.cpp engine")
        given = read_options("llamacpp", spec.options, OPTIONS)
        check_needs("llamacpp", self.capabilities, spec)
        for file in (spec.model, *(path for _, path in spec.adapters)):
            if not file.is_file():
                raise UserError("no such file", where=str(file))
        check_memory(spec)
        threads = given["threads"] or cores()
        settings = {
            "model": str(spec.model),
            "alias": spec.alias,
            "adapters": [str(path) for _, path in spec.adapters],
            "context": spec.context,
            "streams": spec.streams,
            "threads": threads,
            "port": port,
            "parent": os.getpid(),
        }
        argv = (
            sys.executable,
            "-m",
            "pilothouse.serve.engines._llamacpp_process",
            msgspec.json.encode(settings).decode(),
        )
        # Waiting threads spin a little, then sleep. Endless spinning starves a busy machine (0.3–1.8 tok/s were seen);
        # none pays a wake-up for each of an adapter's 840 small operations a token (docs/decisions.md, 20).
        env = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": str(threads)}
        # With a key that nobody else knows, no process of this machine can walk round the gateway and its guard.
        key = secrets.token_urlsafe(24)
        return Launch(argv, f"http://127.0.0.1:{port}", {**env, "PILOTHOUSE_ENGINE_KEY": key}, key)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """Every loaded adapter with its scale: llama.cpp applies those it is not told about at their initial scale."""
        names = [name for name, _ in spec.adapters]
        if adapter is not None and adapter not in names:
            raise UserError(f"no adapter is called {adapter!r}", fix=f"Loaded: {', '.join(names) or 'none'}.")
        return {"lora": [{"id": i, "scale": float(name == adapter)} for i, name in enumerate(names)]} if names else {}

    def rewrite(self, body: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return body

    def gauges(self, metrics: str) -> Gauges:
        """`llamacpp:requests_processing` and `llamacpp:requests_deferred`."""

        def read(name: str) -> float | None:
            found = re.search(rf"^llamacpp:{name}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)$", metrics, re.M)
            return float(found[1]) if found else None

        return Gauges(read("requests_processing"), read("requests_deferred"), read("kv_cache_usage_ratio"))

    def reason(self, log: str) -> str:
        """What llama.cpp marked first as an error since its last start, and the file it concerns; or the exception."""
        last = log.rpartition(STARTING)[2]
        marked = re.findall(r"^[\d.]+ E \S+(?:\s+\w+)?: (.+)$", last, re.M)
        named = [line for line in marked if "failed to load" in line and "'" in line]
        raised = re.findall(r"^\w+(?:Error|Exception): (.+)$", last, re.M)
        lines = [*marked[:1], *named[:1]] or raised[-1:]
        return "; ".join(dict.fromkeys(" ".join(line.split()) for line in lines))


def create() -> LlamaCpp:
    """The engine's knowledge; nothing is started."""
    return LlamaCpp()
