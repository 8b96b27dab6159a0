"""Triton Inference Server: its model repository is written, it is started, and asked over gRPC or HTTP."""

from __future__ import annotations

import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.core.wire import target
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, as_it_is, no_adapter_call
from pilothouse.serve.engines import llamacpp
from pilothouse.serve.engines._attached import KEY_ENV, URL, key_of
from pilothouse.serve.engines._chat_template import takes_tools
from pilothouse.serve.engines._options import WHERE, Option, check_needs, read_options
from pilothouse.serve.engines._triton_home import INSTALL, find_triton
from pilothouse.serve.engines._triton_process import STARTING
from pilothouse.serve.memory import check_memory

OPTIONS = (
    Option("backend", str, "llamacpp", "What runs inside Triton.", choices=("llamacpp", "vllm")),
    Option("transport", str, None, "How Triton is asked; default: grpc, to a `url` http.", choices=("grpc", "http")),
    Option("threads", int, None, "Threads that generate (llamacpp); default: every core this process may use.", low=1),
    Option("python", str, None, "Python of Triton's environment; default: $PILOTHOUSE_TRITON_PYTHON, <home>/engines."),
    Option("http_port", int, None, "Triton's own HTTP port on loopback; default: a free one.", low=1),
    Option("grpc_port", int, None, "Triton's own gRPC port on loopback; default: a free one.", low=1),
    Option("repository", str, None, "Folder to write the model repository to; default: a temporary one."),
    Option("model_json", str, None, "File with vLLM's engine arguments (backend vllm), as its model.json."),
    Option("tokenizer", str, None, "Folder with tokenizer and chat template (backend vllm); default: the model's."),
    URL,
    KEY_ENV,
    Option("grpc_url", str, None, "host:port of that Triton's gRPC service (with `url`)."),
    Option("metrics_url", str, None, "Address of that Triton's metrics page (with `url`)."),
    Option("model", str, None, "Name of the model in Triton; default: the name it is served under."),
)
_OURS = frozenset({"streaming", "logprobs", "tools", "structured_output", "adapters", "prefix_cache"})
_VLLM = frozenset({"streaming", "adapters", "prefix_cache"})
"""What Triton's vLLM back end hands through: a prompt, sampling parameters, the name of an adapter."""


@dataclass(frozen=True)
class Triton:
    """Knowledge of tritonserver (github.com/triton-inference-server), and of the process that fronts it."""

    format: ClassVar[Format] = "gguf"
    capabilities: ClassVar[frozenset[str]] = _OURS
    adapter_call = staticmethod(no_adapter_call)
    rewrite = staticmethod(as_it_is)

    def check(self) -> Check:
        """Is there a tritonserver that can be started?"""
        try:
            return Check(find_triton().version, True, install=INSTALL)
        except UserError as e:
            return Check(None, False, e.line(), INSTALL)

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """By what runs inside; tools only where the chat template has a place for them."""
        given = read_options("triton", spec.options, OPTIONS)
        if given["backend"] == "vllm":
            return _VLLM
        return _OURS if given["url"] or takes_tools(spec.model) else _OURS - {"tools"}

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """A process with Triton as its child, or one that only fronts the Triton at option `url`."""
        given = read_options("triton", spec.options, OPTIONS)
        check_needs(f"triton (backend {given['backend']})", self.can(spec), spec)
        settings = {
            "port": port,
            "alias": spec.alias,
            "name": given["model"] or re.sub(r"[^\w.-]", "-", spec.alias),
            "backend": given["backend"],
            "model": str(spec.model),
            "adapters": [[name, str(path)] for name, path in spec.adapters],
            "context": spec.context,
            "streams": spec.streams,
            "threads": given["threads"] or cores(),
            "tokenizer": given["tokenizer"] or str(spec.model),
        }
        if given["url"]:
            python, more, key = _attached(given)
        else:
            python, more = _started(given, spec)
            key = secrets.token_urlsafe(24)
        argv = (
            str(python),
            "-P",  # else the engines' folder is searched first, and `import openvino` would find ours
            str(Path(__file__).with_name("_triton_process.py")),
            msgspec.json.encode(settings | more).decode(),
        )
        # As for llama.cpp alone: waiting threads spin a little, then sleep (docs/decisions.md, 20).
        env = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": str(settings["threads"])}
        # Two secrets: one for our front, one for the model, whose ports on this machine others can reach too.
        front = secrets.token_urlsafe(24)
        env |= {"PILOTHOUSE_FRONT_KEY": front, "PILOTHOUSE_ENGINE_KEY": key}
        return Launch(argv, f"http://127.0.0.1:{port}", env, front)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """The adapter's name: an input of the model."""
        names = [name for name, _ in spec.adapters]
        if adapter is not None and adapter not in names:
            raise UserError(f"no adapter is called {adapter!r}", fix=f"Loaded: {', '.join(names) or 'none'}.")
        return {"adapter": adapter} if adapter else {}

    def gauges(self, metrics: str) -> Gauges:
        """Our model's own gauges, or vLLM's; Triton's queue in front of the model waits too."""

        def read(name: str) -> float | None:
            found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)$", metrics, re.M)
            return sum(map(float, found)) if found else None

        def either(ours: str, theirs: str) -> float | None:
            value = read(ours)
            return read(theirs) if value is None else value

        running = either("pilothouse_llm_requests_running", "vllm:num_requests_running")
        waiting = either("pilothouse_llm_requests_waiting", "vllm:num_requests_waiting")
        queued = read("nv_inference_pending_request_count")
        if waiting is not None or queued is not None:
            waiting = (waiting or 0) + (queued or 0)
        return Gauges(running, waiting, either("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"))

    def reason(self, log: str) -> str:
        """What llama.cpp said of its model; else what Triton said of loading it; else what our process said."""
        last = log.rpartition(STARTING)[2]
        if said := llamacpp.create().reason(last):
            return said
        loading = re.findall(r"^E\d{4} \S+ \d+ \S+ \"?(failed to load .+?)\"?$", last, re.M)
        libraries = re.findall(r"^\S*tritonserver: (error while loading .+)$", last, re.M)
        ours = re.findall(r"^pilothouse: (.+)$", last, re.M)
        lines = loading[:1] or libraries[:1] or ours[-1:]
        return " ".join(lines[0].partition("\\n")[0].split()) if lines else ""


def _started(given: dict[str, Any], spec: EngineSpec) -> tuple[Path, dict[str, Any]]:
    home = find_triton(given["python"])
    vllm = given["backend"] == "vllm"
    if vllm and home.site is not None:
        what = "this tritonserver has no vLLM back end"
        fix = "Use NVIDIA's image with vLLM (tritonserver:…-vllm-python-py3), or backend: llamacpp."
        raise UserError(what, where=f"{WHERE}.backend", fix=fix)
    arguments: dict[str, Any] = {}
    if vllm:
        for name, path in spec.adapters:
            if not (path / "adapter_config.json").is_file():
                fix = "Give it as PEFT saved it, or serve with backend: llamacpp."
                raise UserError(f"vLLM cannot read adapter {name!r}: no adapter_config.json", where=str(path), fix=fix)
        arguments = _engine_arguments(given["model_json"], spec)
    else:
        for file in (spec.model, *(path for _, path in spec.adapters)):
            if not file.is_file():
                raise UserError("no such file", where=str(file))
        check_memory(spec)
    return home.python, {
        "server": str(home.server),
        "site": str(home.site or ""),
        "engine_args": arguments,
        "repository": given["repository"] or "",
        "http_port": given["http_port"] or 0,
        "grpc_port": given["grpc_port"] or 0,
        "transport": given["transport"] or "grpc",
    }


def _engine_arguments(file: str | None, spec: EngineSpec) -> dict[str, Any]:
    """vLLM's: ours, and over them what the user's file says."""
    arguments: dict[str, Any] = {
        "model": str(spec.model),
        "served_model_name": spec.alias,
        "max_model_len": spec.context,
        "max_num_seqs": spec.streams,
    }
    if not file:
        return arguments
    try:
        own = msgspec.json.decode(Path(file).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as e:
        what = f"the file with vLLM's engine arguments cannot be read ({e})"
        raise UserError(what, where=f"{WHERE}.model_json: {file}", fix="It holds one JSON object.") from None
    return arguments | own


def _attached(given: dict[str, Any]) -> tuple[Path, dict[str, Any], str]:
    for name in ("http_port", "grpc_port", "repository", "model_json"):
        if given[name]:
            raise UserError(
                f"option {name!r} is for a Triton that is started here", where=WHERE, fix="Drop option url."
            )
    target(given["url"])
    transport = given["transport"] or ("grpc" if given["grpc_url"] else "http")
    if transport == "grpc" and not given["grpc_url"]:
        fix = "For example: grpc_url: triton.internal:8001, or transport: http."
        raise UserError("transport grpc needs option 'grpc_url'", where=WHERE, fix=fix)
    # The gRPC client lives in Triton's environment only.
    python = find_triton(given["python"]).python if transport == "grpc" else Path(given["python"] or sys.executable)
    more = {"url": given["url"], "grpc_url": given["grpc_url"], "metrics_url": given["metrics_url"]}
    return python, {**more, "transport": transport}, key_of(given["key_env"])


def create() -> Triton:
    """The engine's knowledge; nothing is started."""
    return Triton()
