"""OpenVINO GenAI: continuous batching with a paged cache, from a GGUF file; the fastest on CPUs for many streams."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pilothouse.core.errors import UserError
from pilothouse.core.machine import cores
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, as_it_is, no_adapter_call
from pilothouse.serve.engines._openvino_process import STARTING
from pilothouse.serve.engines._options import Option, check_needs, read_options
from pilothouse.serve.memory import check_memory

VARIABLE = "PILOTHOUSE_OPENVINO_PYTHON"
INSTALL = (
    "python -m venv .pilothouse/engines/openvino && .pilothouse/engines/openvino/bin/pip install "
    "openvino-genai==2026.4.1.0 openvino==2026.4.1 openvino-tokenizers==2026.4.1.0 httptools msgspec"
)
OPTIONS = (
    Option("threads", int, None, "Threads that generate; default: every core this process may use.", low=1),
    Option("device", str, "CPU", "Device of OpenVINO.", choices=("CPU", "GPU")),
    Option("kv_type", str, "u8", "Type of the KV cache.", choices=("u8", "f16", "bf16", "f32")),
    Option("prefix_cache", bool, True, "Keep what was computed of a prompt for others that begin like it."),
    Option("python", str, None, f"Python of OpenVINO's environment; default: ${VARIABLE}, <home>/engines/openvino."),
)


@dataclass(frozen=True)
class OpenVino:
    """Knowledge of OpenVINO GenAI (github.com/openvinotoolkit/openvino.genai) and of the process that fronts it."""

    format: ClassVar[Format] = "gguf"
    # What is half there is not offered: logprobs of one token a position, adapters not over a GGUF, and a schema that
    # cannot be followed ends the answers of everybody else.
    capabilities: ClassVar[frozenset[str]] = frozenset({"streaming", "prefix_cache"})
    adapter_call = staticmethod(no_adapter_call)
    rewrite = staticmethod(as_it_is)

    def check(self) -> Check:
        """Is there an environment with openvino_genai?"""
        try:
            _, version = find_openvino()
        except UserError as e:
            return Check(None, False, e.line(), INSTALL)
        return Check(version, True, install=INSTALL)

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """The same for every model, but for what an option switches off."""
        lacks = set() if read_options("openvino", spec.options, OPTIONS)["prefix_cache"] else {"prefix_cache"}
        return self.capabilities - lacks

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """A process in OpenVINO's Python."""
        given = read_options("openvino", spec.options, OPTIONS)
        check_needs("openvino", self.can(spec), spec)
        python, _ = find_openvino(given["python"])
        if not spec.model.is_file():
            raise UserError("no such file", where=str(spec.model))
        check_memory(spec)
        settings = {
            "port": port,
            "alias": spec.alias,
            "model": str(spec.model),
            "context": spec.context,
            "streams": spec.streams,
            "threads": given["threads"] or cores(),
            **{name: given[name] for name in ("device", "kv_type", "prefix_cache")},
        }
        argv = (
            str(python),
            "-P",  # else the engines' folder is searched first, and `import openvino` would find this file
            str(Path(__file__).with_name("_openvino_process.py")),
            msgspec.json.encode(settings).decode(),
        )
        key = secrets.token_urlsafe(24)
        return Launch(argv, f"http://127.0.0.1:{port}", {"PILOTHOUSE_ENGINE_KEY": key}, key)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """There are no adapters."""
        if adapter is not None:
            raise UserError(f"engine openvino cannot choose adapter {adapter!r}", fix="Merge it into the model.")
        return {}

    def gauges(self, metrics: str) -> Gauges:
        """From our process's own page."""

        def read(name: str) -> float | None:
            found = re.search(rf"^openvino_{name} ([0-9.eE+-]+)$", metrics, re.M)
            return float(found[1]) if found else None

        return Gauges(read("requests_running"), read("requests_waiting"), read("cache_usage_ratio"))

    def reason(self, log: str) -> str:
        """What our process said last."""
        said = re.findall(r"^pilothouse: (?!starting)(.+)$", log.rpartition(STARTING)[2], re.M)
        return " ".join(said[-1].split()) if said else ""


def find_openvino(python: str | None = None) -> tuple[Path, str]:
    """Python and version, by option `python`, else $PILOTHOUSE_OPENVINO_PYTHON, else <home>/engines/openvino."""
    where, given = ("option python", python) if python else (VARIABLE, os.environ.get(VARIABLE))
    if given:
        path = Path(given).expanduser().absolute()  # not resolved: a venv's Python is a link out of it
    else:
        from pilothouse.store.store import locate

        path = (locate() or Path(".pilothouse")).absolute() / "engines" / "openvino" / "bin" / "python"
    at = f"{where}: {given}" if given else "engine openvino"
    if not path.is_file():
        raise UserError("OpenVINO GenAI is not installed here", where=at, fix=f"Run: {INSTALL}")
    for site in sorted((path.parent.parent / "lib").glob("python3.*/site-packages")):
        names = [p.name.removesuffix(".dist-info").rpartition("-")[2] for p in site.glob("openvino_genai-*.dist-info")]
        lacks = [name for name in ("msgspec", "httptools") if not (site / name).is_dir()]
        if names and lacks:
            raise UserError(f"{lacks[0]} is missing beside OpenVINO", where=at, fix=f"Run: {INSTALL}")
        if names:
            return path, names[0]
    raise UserError("this Python has no openvino-genai", where=at, fix=f"Run: {INSTALL}")


def create() -> OpenVino:
    """The engine's knowledge; nothing is started."""
    return OpenVino()
