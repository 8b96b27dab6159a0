"""llama.cpp: embedded (xllamacpp), a `llama-server` of one's own, or one that runs already; adapters by request."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import msgspec

from pilothouse.core.errors import UserError, need
from pilothouse.core.machine import cores
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, as_it_is, no_adapter_call
from pilothouse.serve.engines import _attached, _llama_server
from pilothouse.serve.engines._become import STARTING
from pilothouse.serve.engines._chat_template import takes_tools
from pilothouse.serve.engines._options import WHERE, Option, check_needs, read_options
from pilothouse.serve.memory import check_memory

NEEDS = {"xllamacpp": "llamacpp"}
_KV = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_POOLING = ("off", "mean", "cls", "last")
# Measured (SmolLM2 Q4_1, 2 threads, prompts of 130 tokens, answers of 48, CPU time a request, best of 4 rounds beside
# busy neighbours): q8_0 keys and values cost as much as f16 and take 87 MB less at 8,192 tokens; q4_0 cost 16 % more
# and take 132 MB less; one cache for all, ubatch 128 or 1,024, flash attention off, embeddings on: within 5 %. f16
# stays the default because quantised values change near-ties, which parity would see.
OPTIONS = (
    Option("threads", int, None, "Threads that generate; default: every core, shared among replicas.", low=1),
    Option("threads_batch", int, None, "Threads that read prompts; default: as many as generate.", low=1),
    Option("batch", int, 2048, "Tokens of prompts taken together.", low=1),
    Option("ubatch", int, None, "Tokens computed together; default 512, with embeddings the context.", low=1),
    Option("kv_type", str, "f16", "Type of the cached keys; q8_0 takes half the memory.", choices=_KV),
    Option("kv_type_v", str, None, "Type of the cached values; default: as kv_type.", choices=_KV),
    Option("flash_attention", str, "auto", "Attention without the full matrix.", choices=("auto", "on", "off")),
    Option("kv_unified", bool, False, "One KV cache for all streams: a long request may use what others leave."),
    Option("prompt_cache_mb", int, 0, "Memory for prompts seen before; only without adapters.", low=0),
    Option(
        "embeddings", str, None, "Answer /v1/embeddings, by this pooling; default: if needed, mean.", choices=_POOLING
    ),
    Option("gpu_layers", int, None, "Layers on the GPU; default: as many as fit (0 on a build without GPU).", low=0),
    Option("binary", str, None, "A llama-server to run in place of the embedded one."),
    _attached.URL,
    _attached.KEY_ENV,
)


@dataclass(frozen=True)
class LlamaCpp:
    """Knowledge of llama.cpp's server (docs: tools/server/README.md of llama.cpp)."""

    format: ClassVar[Format] = "gguf"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"streaming", "logprobs", "tools", "structured_output", "adapters", "prefix_cache", "embeddings"}
    )
    adapter_call = staticmethod(no_adapter_call)
    rewrite = staticmethod(as_it_is)

    def check(self) -> Check:
        """xllamacpp carries llama.cpp with it, so installed means runnable."""
        install = "pip install 'pilothouse[llamacpp]'"
        try:
            return Check(version("xllamacpp"), True, install=install)
        except PackageNotFoundError:
            return Check(None, False, "xllamacpp is not installed", f"{install}, or set option binary or url")

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """Embeddings only where they are switched on; tools only where the chat template has a place for them."""
        given = read_options("llamacpp", spec.options, OPTIONS)
        lacks = {"embeddings"} if _pooling(spec, given) == "off" else set()
        if not given["url"] and not takes_tools(spec.model):
            lacks.add("tools")
        return self.capabilities - lacks

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """A Python process that runs the embedded server, a llama-server, or nothing where one runs already."""
        given = read_options("llamacpp", spec.options, OPTIONS)
        pooling = _pooling(spec, given)
        if pooling == "off" and "embeddings" in spec.needs:
            raise UserError("this project needs embeddings", where=f"{WHERE}.embeddings", fix="Set it to mean.")
        check_needs("llamacpp", self.can(spec), spec)
        if given["url"]:
            _attached.refuse_launch_options("llamacpp", spec.options, also=("embeddings",))
            url, key = _attached.base_url("llamacpp", given["url"]), _attached.key_of(given["key_env"])
            _llama_server.check_attached(url, key, spec, embeddings=pooling != "off")
            return Launch((), url, api_key=key, patience_s=20.0)
        settings = _settings(spec, given, pooling, port)
        # Waiting threads spin a little, then sleep. Endless spinning starves a busy machine (0.3–1.8 tok/s were seen);
        # none pays a wake-up for each of an adapter's 840 small operations a token (docs/decisions.md, 20).
        env = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": str(settings["threads"])}
        # With a key that nobody else knows, no process of this machine can walk round the gateway and its guard.
        key = secrets.token_urlsafe(24)
        where = f"http://127.0.0.1:{port}"
        if given["binary"]:
            return Launch(_llama_server.argv(given["binary"], settings), where, {**env, "LLAMA_API_KEY": key}, key)
        need("xllamacpp", "llamacpp", "the llama.cpp engine")
        module, text = "pilothouse.serve.engines._llamacpp_process", msgspec.json.encode(settings).decode()
        return Launch((sys.executable, "-m", module, text), where, {**env, "PILOTHOUSE_ENGINE_KEY": key}, key)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """Every loaded adapter with its scale: llama.cpp applies those it is not told about at their initial scale."""
        names = [name for name, _ in spec.adapters]
        if adapter is not None and adapter not in names:
            raise UserError(f"no adapter is called {adapter!r}", fix=f"Loaded: {', '.join(names) or 'none'}.")
        return {"lora": [{"id": i, "scale": float(name == adapter)} for i, name in enumerate(names)]} if names else {}

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


def _pooling(spec: EngineSpec, given: Mapping[str, Any]) -> str:
    return str(given["embeddings"] or ("mean" if "embeddings" in spec.needs else "off"))


def _settings(spec: EngineSpec, given: Mapping[str, Any], pooling: str, port: int) -> dict[str, Any]:
    """What the server is to be, checked: files there, memory enough, no options that contradict each other."""
    for file in (spec.model, *(path for _, path in spec.adapters)):
        if not file.is_file():
            raise UserError("no such file", where=str(file))
    if given["prompt_cache_mb"] and spec.adapters:
        what = "the prompt cache mixes up adapters (docs/decisions.md, 19)"
        raise UserError(what, where=f"{WHERE}.prompt_cache_mb", fix="Leave it out, or merge the adapter.")
    values = given["kv_type_v"] or given["kv_type"]
    if values not in ("f32", "f16", "bf16") and given["flash_attention"] == "off":
        what = f"cached values of type {values!r} need flash attention"
        raise UserError(what, where=f"{WHERE}.flash_attention", fix="Leave it out, or set kv_type_v to f16.")
    check_memory(spec)
    threads = given["threads"] or max(1, cores() // spec.replicas)
    # A text whose embedding is asked for must be computed at once.
    ubatch = given["ubatch"] or (512 if pooling == "off" else max(512, spec.context))
    return {
        **{name: given[name] for name in ("kv_type", "flash_attention", "kv_unified", "gpu_layers", "prompt_cache_mb")},
        "model": str(spec.model),
        "alias": spec.alias,
        "adapters": [str(path) for _, path in spec.adapters],
        "context": spec.context,
        "streams": spec.streams,
        "batch": max(given["batch"], ubatch),
        "ubatch": ubatch,
        "threads": threads,
        "threads_batch": given["threads_batch"] or threads,
        "kv_type_v": values,
        "embeddings": pooling,
        "port": port,
    }


def create() -> LlamaCpp:
    """The engine's knowledge; nothing is started."""
    return LlamaCpp()
