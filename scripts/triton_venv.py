"""Install Triton Inference Server in an environment of its own: `python scripts/triton_venv.py FOLDER`.

Its wheel (nvidia-pytriton, which carries the real tritonserver) wants numpy < 2, so it lives beside Pilothouse, not
inside it; `serve.options.python`, PILOTHOUSE_TRITON_PYTHON or `<home>/engines/triton` tell Pilothouse where.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

# Triton 2.51, its clients, and the numpy that its back end was built for.
TRITON = ("nvidia-pytriton==0.7.0", "tritonclient==2.73.0", "protobuf==6.33.6", "grpcio==1.85.1", "numpy<2")
# What runs inside Triton, and what our process in front of it imports.
OURS = ("xllamacpp==2026.10.11549", "httptools>=0.6", "msgspec>=0.19")
NEEDED_GB = 1


def main() -> int:
    """Make the environment (again: an existing one is completed) and print its Python."""
    parser = argparse.ArgumentParser(description="Install Triton Inference Server in an environment of its own.")
    parser.add_argument("folder", type=Path, help="where, for example .pilothouse/engines/triton")
    folder = parser.parse_args().folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < NEEDED_GB:
        print(f"error: {NEEDED_GB} GB is needed, {free:.1f} GB are free: {folder.parent}", file=sys.stderr)
        return 2
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, *TRITON, *OURS], check=True)
    except subprocess.CalledProcessError as e:
        print(f"error: the installation ended with exit code {e.returncode}; run it again to go on", file=sys.stderr)
        return 2
    stubs = next(folder.glob("lib/python3.*/site-packages/pytriton/tritonserver/python_backend_stubs"), None)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if stubs is None or not (stubs / version).is_dir():
        print(f"error: this wheel has no Triton for Python {version} on this machine", file=sys.stderr)
        return 2
    print(f"export PILOTHOUSE_TRITON_PYTHON={python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
