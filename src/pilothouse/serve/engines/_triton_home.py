"""Where is a tritonserver that can be started here, and what does it need around it?

Two kinds are known: the one inside the `nvidia-pytriton` wheel, in an environment of its own (`scripts/triton_venv.py`
makes it), and an installed one (`tritonserver` on PATH, /opt/tritonserver: NVIDIA's container images).
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pilothouse.core.errors import UserError

VARIABLE = "PILOTHOUSE_TRITON_PYTHON"
INSTALL = "python scripts/triton_venv.py .pilothouse/engines/triton"
_CONTAINER = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True)
class TritonHome:
    """python: runs our process. server: the tritonserver. site: the wheel's environment (None: an installed server)."""

    python: Path
    server: Path
    version: str
    site: Path | None = None


def find_triton(python: str | None = None) -> TritonHome:
    """By option `python`, else $PILOTHOUSE_TRITON_PYTHON, else <home>/engines/triton, else PATH. UserError if none."""
    where, given = ("option python", python) if python else (VARIABLE, os.environ.get(VARIABLE))
    if given:
        path = Path(given).expanduser().absolute()  # not resolved: a venv's Python is a link out of it
        if not path.is_file():
            raise UserError("no such Python", where=f"{where}: {given}", fix=f"Make one: {INSTALL}")
    else:
        from pilothouse.store.store import locate

        store = locate()
        path = (store or Path(".pilothouse")).absolute() / "engines" / "triton" / "bin" / "python"
    if path.is_file() and (wheel := _wheel(path)) is not None:
        return wheel
    installed = shutil.which("tritonserver") or (str(_CONTAINER) if _CONTAINER.is_file() else None)
    if installed is None:
        what = "no tritonserver is installed here"
        raise UserError(what, where=f"{where}: {given}" if given else "engine triton", fix=f"Run: {INSTALL}")
    return TritonHome(path if given else Path(sys.executable), Path(installed), f"at {installed}")


def _wheel(python: Path) -> TritonHome | None:
    for site in sorted((python.parent.parent / "lib").glob("python3.*/site-packages")):
        server = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
        if not server.is_file():
            continue
        lacks = [name for name in ("xllamacpp", "tritonclient", "msgspec", "httptools") if not (site / name).is_dir()]
        if lacks:
            raise UserError(f"{lacks[0]} is missing beside Triton", where=str(python), fix=f"Complete it: {INSTALL}")
        version = next(
            (p.name.removesuffix(".dist-info").rpartition("-")[2] for p in site.glob("nvidia_pytriton-*.dist-info")),
            "?",
        )
        return TritonHome(python, server, f"nvidia-pytriton {version}", site)
    return None
