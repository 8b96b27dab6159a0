"""vLLM on GPUs or CPUs: paged KV cache, parallel sizes, quantisation, adapters loaded and unloaded while it runs."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pilothouse.core.errors import UserError
from pilothouse.serve import devices
from pilothouse.serve.base import CAPABILITIES, Check, EngineSpec, Format, Gauges, Launch
from pilothouse.serve.engines import _vllm_log, _vllm_python
from pilothouse.serve.engines._options import WHERE, check_needs, read_options
from pilothouse.serve.engines._vllm_options import OPTIONS, rank_words, words
from pilothouse.serve.footprint import read_config
from pilothouse.serve.memory import Plan, check_memory, need

__all__ = ["OPTIONS", "Vllm", "create"]

_DOOR = Path(__file__).with_name("_vllm_door")
# One name may be both the deployment and its adapter; vLLM looks among models first and would answer without it.
_PREFIX = "adapter:"
# Server, engine core and worker of vLLM 0.32 with SmolLM2, beside weights and cache: 1.9 GB (proportional set size).
_OVERHEAD_CPU = 2 * 2**30
# CUDA's context, graphs and activations a GPU: an allowance, not measured here.
_OVERHEAD_GPU = 2 * 2**30
_AHEAD = 8192  # most tokens that vLLM's defaults read in one step of its server
_PATIENCE_S = 900.0  # weights of 100 GB from a disk, or compiling for the first time (350 s were seen on two cores)
_EMBEDDERS = ("Model", "ForSequenceClassification", "ForMaskedLM", "ForTextEncoding")


@dataclass(frozen=True)
class Vllm:
    """Knowledge of vLLM's OpenAI server. Tools need option `tool_call_parser`, embeddings a model of embeddings."""

    format: ClassVar[Format] = "hf"
    capabilities: ClassVar[frozenset[str]] = frozenset(CAPABILITIES)
    rewrites: ClassVar[bool] = False

    def check(self) -> Check:
        """Found, and for a device that is here?"""
        try:
            found = _vllm_python.find()
        except UserError as e:
            return Check(None, False, e.line(), _vllm_python.INSTALL)
        if found is None:
            return Check(None, False, "vLLM is installed neither here nor in engines/vllm", _vllm_python.INSTALL)
        if found.build == "cuda" and not devices.gpus():
            reason = "this vLLM is built for NVIDIA GPUs, and nvidia-smi shows none"
            return Check(found.version, False, reason, _vllm_python.INSTALL)
        return Check(f"{found.version} ({found.build})", True, install=_vllm_python.INSTALL)

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """What this launch can do: a model of embeddings only embeds; without a parser nobody reads tool calls."""
        given = read_options("vllm", spec.options, OPTIONS)
        if given["runner"] == "pooling" or (given["runner"] == "auto" and _embeds(spec.model)):
            return frozenset({"embeddings"})
        return self.capabilities - {"embeddings"} - (set() if given["tool_call_parser"] else {"tools"})

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """vLLM's server on loopback, with a key that only its environment knows."""
        given = read_options("vllm", spec.options, OPTIONS)
        check_needs("vllm", self.can(spec), spec)
        found = _vllm_python.find(given["python"])
        if found is None:
            raise UserError("vLLM is not installed", where="pilothouse.yaml: serve.engine", fix=_vllm_python.INSTALL)
        if found.build != "cpu" and spec.replicas > 1:
            fix = f"Let vLLM copy the model: data_parallel_size: {spec.replicas}, and replicas: 1."
            raise UserError("replicas of vLLM would share the same GPUs", where=WHERE, fix=fix)
        plan = _plan(found, given)
        if found.build != "other":  # of ROCm's and other devices' memory nothing is known here: their vLLM checks
            check_memory(spec, plan=plan)
        if found.build == "cpu":
            given["enforce_eager"] = True if given["enforce_eager"] is None else given["enforce_eager"]
            given["block_size"] = given["block_size"] or 32  # its default of 128 finds few common beginnings
        if given["enable_auto_tool_choice"] is None:
            given["enable_auto_tool_choice"] = given["tool_call_parser"] is not None
        given["max_num_seqs"] = given["max_num_seqs"] or spec.streams
        adapters = _adapters(spec, given)
        argv = (
            str(found.python),
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(spec.model), "--served-model-name", spec.alias),
            *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(spec.context)),
            *("--disable-uvicorn-access-log", "--disable-fastapi-docs"),
            *("--middleware", "pilothouse_vllm_door.Door"),
            *_cache_words(spec, given, plan),
            *words(given),
            *adapters,
        )
        key = secrets.token_urlsafe(24)
        env = {
            "VLLM_API_KEY": key,
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": given["cpu_threads"],
            "PYTHONPATH": str(_DOOR),
            "PYTHONSAFEPATH": "1",  # a folder `vllm` where Pilothouse was started is not vLLM
            **({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if adapters else {}),
            **_gpu_env(plan),
        }
        return Launch(argv, f"http://127.0.0.1:{port}", env, key, patience_s=_PATIENCE_S)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """An adapter is a model of its own name. Which are loaded, vLLM knows: they may have come while it ran."""
        return {"model": spec.alias if adapter is None else _PREFIX + adapter}

    def rewrite(self, body: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return body

    def adapter_call(self, verb: Literal["load", "unload"], name: str, path: Path) -> tuple[str, dict[str, Any]] | None:
        """vLLM's own calls; the same name again replaces the weights."""
        if verb == "unload":
            return "/v1/unload_lora_adapter", {"lora_name": _PREFIX + name}
        body = {"lora_name": _PREFIX + name, "lora_path": str(path.absolute()), "load_inplace": True}
        return "/v1/load_lora_adapter", body

    def gauges(self, metrics: str) -> Gauges:
        """Requests over all data-parallel ranks; of their caches the fullest."""

        def read(name: str) -> list[float]:
            return [float(v) for v in re.findall(rf"^vllm:{name}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)$", metrics, re.M)]

        running, waiting, used = (
            read(name) for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        )
        return Gauges(sum(running) if running else None, sum(waiting) if waiting else None, max(used) if used else None)

    def reason(self, log: str) -> str:
        """The cause, of what several processes say."""
        return _vllm_log.reason(log)


def _plan(found: _vllm_python.Found, given: dict[str, Any]) -> Plan:
    """Where the model will lie."""
    tensor, pipeline, copies = (given[f"{kind}_parallel_size"] for kind in ("tensor", "pipeline", "data"))
    gpus = None if found.build == "cpu" else devices.gpus()
    cache = None if given["kv_cache_gb"] is None else int(given["kv_cache_gb"] * 1e9)
    overhead = _OVERHEAD_CPU if gpus is None else _OVERHEAD_GPU
    ahead = given["max_num_batched_tokens"] or _AHEAD
    share = given["gpu_memory_utilization"]
    return Plan(
        gpus,
        *(tensor, pipeline, copies, share, given["dtype"], given["kv_cache_dtype"], cache, overhead, ahead),
        offload=int((given["cpu_offload_gb"] or 0) * 2**30),
        bound=gpus is None,
    )


def _gpu_env(plan: Plan) -> dict[str, str]:
    """The GPUs with the most free memory, so that a second model does not land on the first one's."""
    used = plan.together * plan.copies
    if not plan.gpus or len(plan.gpus) <= used or not all(g.uuid for g in plan.gpus):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(g.uuid for g in devices.freest(plan.gpus, used))}


def _cache_words(spec: EngineSpec, given: dict[str, Any], plan: Plan) -> list[str]:
    """The KV cache's size: as given; on a CPU what was checked, for its default is nearly all RAM of a node."""
    if plan.cache is not None:
        return ["--kv-cache-memory-bytes", str(plan.cache // plan.together)]
    if plan.gpus is not None:
        return ["--gpu-memory-utilization", f"{given['gpu_memory_utilization']:g}"]
    cache = need(spec, plan).cache
    if not cache:
        fix = "Set it: the KV cache's size cannot be told from this model's config.json."
        raise UserError("kv_cache_gb is needed", where=WHERE, fix=fix)
    # Blocks are whole, one is a spare, and layers of several kinds are padded to groups of one size.
    return ["--kv-cache-memory-bytes", str((cache + cache // 8 + 64 * 2**20) // plan.together)]


def _adapters(spec: EngineSpec, given: dict[str, Any]) -> list[str]:
    """Flags for the adapters at start, and room for those that come later when the project needs that."""
    if not spec.adapters and "hot_adapters" not in spec.needs and given["max_loras"] is None:
        return []
    named = [json.dumps({"name": _PREFIX + name, "path": str(path.absolute())}) for name, path in spec.adapters]
    made = rank_words([_rank(path) for _, path in spec.adapters], given)
    return [*made, *(("--lora-modules", *named) if named else ())]


def _rank(adapter: Path) -> int:
    """The largest rank in PEFT's adapter_config.json."""
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        what = f"not an adapter of PEFT with a rank ({type(e).__name__}: {e})"
        fix = "vLLM reads LoRA adapters as PEFT saves them; merge others into the model."
        raise UserError(what, where=str(file), fix=fix) from None


def _embeds(model: Path) -> bool:
    """Is it a model of embeddings? Sentence Transformers' own file says so, else the architecture has no decoder."""
    if (model / "modules.json").is_file():
        return True
    named = read_config(model).get("architectures") or []
    return bool(named) and all(str(name).endswith(_EMBEDDERS) for name in named)


def create() -> Vllm:
    """The engine's knowledge; nothing is started."""
    return Vllm()
