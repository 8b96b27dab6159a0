"""Text Generation Inference: started by its launcher where that is installed, else attached to by URL.

What is said here of TGI was read in its source (version 3.3, in maintenance since December 2025).
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pilothouse.core.errors import UserError
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, no_adapter_call
from pilothouse.serve.engines import _attached, _tgi_chat
from pilothouse.serve.engines._become import STARTING
from pilothouse.serve.engines._options import WHERE, Option, check_needs, read_options
from pilothouse.serve.ports import free_port

_PROCESS = "pilothouse.serve.engines._tgi_process"
LAUNCHER = "text-generation-launcher"
_BITSANDBYTES = ("bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
_QUANTIZE = ("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", *_BITSANDBYTES, "fp8")
OPTIONS = (
    _attached.URL,
    _attached.KEY_ENV,
    Option("num_shard", int, None, "GPUs to split the model over; default: all that are visible.", low=1),
    Option("quantize", str, None, "How weights are quantised; default: as the model is.", choices=_QUANTIZE),
    Option("dtype", str, None, "Type of the weights; not with quantize.", choices=("float16", "bfloat16")),
    Option("kv_cache_dtype", str, None, "Type of the KV cache; default: dtype.", choices=("fp8_e4m3fn", "fp8_e5m2")),
    Option("speculate", int, None, "Tokens guessed ahead (n-gram, or the model's Medusa heads).", low=1),
    Option("max_concurrent_requests", int, 128, "Requests let in, running or waiting; more get 429.", low=1),
    Option("max_batch_prefill_tokens", int, None, "Tokens of prompts read at once; default: TGI's.", low=1),
    Option("max_batch_total_tokens", int, None, "Tokens of all requests at once; default: what fits.", low=1),
    Option("cuda_memory_fraction", float, 1.0, "Share of the GPU's memory it may take.", low=0.01),
    Option("trust_remote_code", bool, False, "Run code that the model's folder brings."),
)
_NO_FLAGS = ("url", "key_env", "trust_remote_code")
_GENERIC = re.compile(r"^(Shard \d+ (failed|crashed)|Shutting down|Webserver Crashed|Shard process was signaled)")


@dataclass(frozen=True)
class Tgi:
    """Knowledge of TGI's launcher and router."""

    format: ClassVar[Format] = "hf"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"streaming", "logprobs", "tools", "structured_output", "adapters", "prefix_cache"}
    )
    adapter_call = staticmethod(no_adapter_call)

    def check(self) -> Check:
        """The launcher on PATH; without it only a TGI elsewhere can be attached to."""
        install = "run its container (ghcr.io/huggingface/text-generation-inference) and set serve.options.url"
        if shutil.which(LAUNCHER) is None:
            return Check(None, False, f"{LAUNCHER} is not on PATH", install)
        return Check("launcher on PATH", True, install=install)

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """Its launcher switches the prefix cache off where there are adapters (resolve_attention)."""
        return self.capabilities - ({"prefix_cache"} if spec.adapters else set())

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """The launcher's command line, or, with option `url`, nothing to start: then /info is asked if it fits."""
        given = read_options("tgi", spec.options, OPTIONS)
        check_needs("tgi", self.can(spec), spec)
        for name, path in spec.adapters:
            if name == "tgi" or set(name) & set("=,@") or set(str(path)) & set(",@="):
                what = f"adapter {name!r} at {str(path)!r}: TGI takes no name 'tgi' and no '=', ',' or '@' in either"
                raise UserError(what, where=WHERE, fix="Rename it.")
        if given["url"]:
            _attached.refuse_launch_options("tgi", spec.options)
            url, key = _attached.base_url("tgi", given["url"]), _attached.key_of(given["key_env"])
            check_info(_attached.ask(url, "/info", key), spec, url)
            return Launch((), url, api_key=key, patience_s=20.0)
        program = shutil.which(LAUNCHER)
        if program is None:
            fix = "Set serve.options.url to a TGI that runs already (its container image is how it is installed)."
            raise UserError(f"engine tgi cannot be started: {LAUNCHER} is not on PATH", where=WHERE, fix=fix)
        if given["quantize"] and given["dtype"]:
            raise UserError("quantize and dtype do not go together", where=WHERE, fix="Drop one of them.")
        key = secrets.token_urlsafe(24)
        # The key goes by environment, and the launcher logs its arguments at level info: warnings only.
        env = {"API_KEY": key, "LOG_LEVEL": "warn", "LOG_COLORIZE": "0"}
        argv = (sys.executable, "-m", _PROCESS, program, *_arguments(spec, given, port))
        return Launch(argv, f"http://127.0.0.1:{port}", env, key, patience_s=900.0)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """`model` chooses the adapter, `tgi` is the base model (ChatRequest::try_into_generate in router/src/lib.rs).

        A name that TGI has not loaded would be answered by the base model without a word, so it is refused here.
        """
        names = [name for name, _ in spec.adapters]
        if adapter is not None and adapter not in names:
            raise UserError(f"no adapter is called {adapter!r}", fix=f"Loaded: {', '.join(names) or 'none'}.")
        return {"model": adapter or "tgi"}

    def rewrite(self, body: dict[str, Any]) -> dict[str, Any]:
        """As TGI's router takes it."""
        return _tgi_chat.to_tgi(body)

    def answers(self, model: str, asked: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """For one request (its body: `asked`) to `model`: turns what TGI answers into OpenAI's form."""
        return _tgi_chat.from_tgi(model, asked)

    def gauges(self, metrics: str) -> Gauges:
        """`tgi_batch_current_size` and `tgi_queue_size`; it tells nothing of its KV cache."""

        def read(name: str) -> float | None:
            found = re.search(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)$", metrics, re.M)
            return float(found[1]) if found else None

        return Gauges(read("tgi_batch_current_size"), read("tgi_queue_size"))

    def reason(self, log: str) -> str:
        """The last line of the first error that says more than that something failed; or the launcher's last word."""
        lines = log.rpartition(STARTING)[2].splitlines()
        for said in filter(None, map(_error_of, lines)):
            last = " ".join(said.strip().splitlines()[-1].split()) if said.strip() else ""
            if last and not _GENERIC.match(last):
                return last
        ended = [line for line in lines if line.startswith(("Error: ", "error: "))]
        return ended[-1].partition(": ")[2] if ended else ""


def check_info(info: Mapping[str, Any], spec: EngineSpec, where: str) -> None:
    """UserError unless the running TGI's /info says that it holds what the project wants."""
    context, requests = info.get("max_total_tokens"), info.get("max_concurrent_requests")
    if not isinstance(context, int) or not isinstance(requests, int):
        fix = "Is it a Text Generation Inference?"
        raise UserError("/info tells no max_total_tokens and max_concurrent_requests", where=where, fix=fix)
    if context < spec.context:
        fix = f"Start it with --max-total-tokens {spec.context}, or set use.context to {context}."
        raise UserError(f"a request may hold {context} tokens there, {spec.context} are wanted", where=where, fix=fix)
    if requests < spec.streams:
        fix = f"Start it with --max-concurrent-requests {spec.streams}, or set use.streams to {requests}."
        raise UserError(f"it lets in {requests} requests at a time, {spec.streams} are wanted", where=where, fix=fix)


def _arguments(spec: EngineSpec, given: Mapping[str, Any], port: int) -> list[str]:
    """Flags of launcher/src/main.rs. It checks that a prompt leaves room for an answer: one token less than all."""
    for folder in (spec.model, *(path for _, path in spec.adapters)):
        if not folder.is_dir():
            raise UserError("no such folder", where=str(folder))
    line = ["--model-id", str(spec.model), "--hostname", "127.0.0.1", "--port", str(port)]
    # Defaults that two on one machine would share.
    line += ["--prometheus-port", str(free_port()), "--master-port", str(free_port())]
    line += ["--shard-uds-path", str(Path(tempfile.gettempdir()) / f"pilothouse-tgi-{port}")]
    line += ["--max-input-tokens", str(spec.context - 1), "--max-total-tokens", str(spec.context)]
    line += ["--max-batch-size", str(spec.streams)]
    # Twice (router, then shards) must fit into the supervisor's patience of 10 s: who kills the launcher leaves both.
    line += ["--graceful-termination-timeout", "4", "--usage-stats", "off", "--json-output"]
    if spec.adapters:
        line += ["--lora-adapters", ",".join(f"{name}={path}" for name, path in spec.adapters)]
    for name, value in given.items():
        if name not in _NO_FLAGS and value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line + (["--trust-remote-code"] if given["trust_remote_code"] else [])


def _error_of(line: str) -> str:
    """Text of an error: launcher ({level, fields: {message}}) and router ({level, message}) write JSON lines."""
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(entry, dict) or entry.get("level") != "ERROR":
        return ""
    fields = entry.get("fields")
    return str((fields if isinstance(fields, dict) else entry).get("message", ""))


def create() -> Tgi:
    """The engine's knowledge; nothing is started."""
    return Tgi()
