"""llama.cpp's own `llama-server`: how to start one that is installed here, and is a running one fit for the project?

Flags: `llama-server --help` (tools/server/README.md of llama.cpp).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.engines import _attached
from pilothouse.serve.engines._become import becoming
from pilothouse.serve.engines._options import WHERE


def program(binary: str) -> str:
    """Path of the executable that option `binary` names; UserError when there is none."""
    found = shutil.which(str(Path(binary).expanduser()))
    if found is None:
        fix = "Give the path of a llama-server, or leave the option out: llama.cpp comes with Pilothouse."
        raise UserError(f"no program {binary!r} can be run here", where=f"{WHERE}.binary", fix=fix)
    return found


def argv(binary: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Command line for the settings that `_llamacpp_process` gives the embedded server. The key goes by environment."""
    s = settings
    line = ["--model", s["model"], "--alias", s["alias"], "--host", "127.0.0.1", "--port", str(s["port"])]
    line += ["--ctx-size", str(s["context"] * s["streams"]), "--parallel", str(s["streams"])]
    line += ["--threads", str(s["threads"]), "--threads-batch", str(s["threads_batch"])]
    line += ["--batch-size", str(s["batch"]), "--ubatch-size", str(s["ubatch"])]
    line += ["--cache-type-k", s["kv_type"], "--cache-type-v", s["kv_type_v"], "--flash-attn", s["flash_attention"]]
    line += ["--kv-unified" if s["kv_unified"] else "--no-kv-unified", "--cache-ram", str(s["prompt_cache_mb"])]
    line += ["--metrics", "--no-webui", "--log-verbosity", "2"]
    if s["gpu_layers"] is not None:
        line += ["--n-gpu-layers", str(s["gpu_layers"])]
    if s["embeddings"] != "off":
        line += ["--embeddings", "--pooling", s["embeddings"]]
    if s["adapters"]:
        for path in s["adapters"]:
            if "," in path or ":" in path:
                fix = "Rename it, or leave option binary out."
                raise UserError("llama-server takes no adapter whose path holds ',' or ':'", where=path, fix=fix)
        # Scale 0: an adapter speaks only when a request names it.
        line += ["--lora-scaled", ",".join(f"{path}:0.0" for path in s["adapters"])]
    return becoming(program(binary), *line)


def check_attached(url: str, key: str, spec: EngineSpec, *, embeddings: bool) -> None:
    """UserError unless the server at `url` holds what the project wants: context, streams, adapters in order."""
    props = _attached.ask(url, "/props", key)
    slots, context = props.get("total_slots", 0), props.get("default_generation_settings", {}).get("n_ctx", 0)
    if not slots or not context:
        raise UserError("/props tells no slots and context", where=url, fix="Is it a llama-server?")
    if slots < spec.streams:
        fix = f"Start it with --parallel {spec.streams}, or set use.streams to {slots}."
        raise UserError(f"it answers {slots} requests at a time, {spec.streams} are wanted", where=url, fix=fix)
    if context < spec.context:
        fix = f"Start it with --ctx-size {spec.context * spec.streams}, or set use.context to {context}."
        raise UserError(f"a request may hold {context} tokens there, {spec.context} are wanted", where=url, fix=fix)
    there = [Path(item.get("path", "")).stem for item in _attached.ask(url, "/lora-adapters", key, kind=list)]
    wanted = [{name, path.stem} for name, path in spec.adapters]
    if len(there) != len(wanted) or any(stem not in names for stem, names in zip(there, wanted, strict=True)):
        ours = ", ".join(f"{name}.gguf" for name, _ in spec.adapters) or "none"
        what = f"it has the adapters {', '.join(there) or 'none'}; wanted, in this order: {ours}"
        fix = "Start it with --lora-scaled FILE:0.0,… in that order." if spec.adapters else "Start it without --lora."
        raise UserError(what, where=url, fix=fix)
    if "tools" in spec.needs and not props.get("chat_template_caps", {}).get("supports_tools", True):
        fix = "Start it with a --chat-template that has a place for tools."
        raise UserError("this project needs tools, and its chat template leaves them out", where=url, fix=fix)
    if embeddings:
        fix = "Start it with --embeddings --pooling mean."
        _attached.ask(url, "/v1/embeddings", key, body={"input": "x"}, fix=fix)
