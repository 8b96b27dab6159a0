"""Install TGI's own Python client in an environment of its own: `python scripts/tgi_clients_venv.py FOLDER`.

`text-generation` 0.7 wants huggingface-hub below 1.0, Pilothouse a newer one, so it lives beside Pilothouse.
tests/serve/test_tgi_conformance.py asks the conformance server with it where PILOTHOUSE_TGI_CLIENT_PYTHON names its
Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

CLIENT = "text-generation==0.7.0"


def main() -> int:
    """Make the environment (an existing one is completed) and print its Python."""
    parser = argparse.ArgumentParser(description="Install TGI's Python client in an environment of its own.")
    parser.add_argument("folder", type=Path, help="where the environment is made, for example .cache/tgi-client")
    folder = parser.parse_args().folder.absolute()
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT])
    if done.returncode:
        print(f"error: {CLIENT} could not be installed (exit code {done.returncode})", file=sys.stderr)
        return 2
    print(f"export PILOTHOUSE_TGI_CLIENT_PYTHON={python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
