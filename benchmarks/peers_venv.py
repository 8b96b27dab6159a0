"""Install the peers that benchmarks compare us with, each in a virtual environment of its own.

    python -m benchmarks.peers_venv [litellm] [vllm-router]

They lie in $PILOTHOUSE_PEERS, or in ~/.cache/pilothouse-peers, one folder a peer. nginx comes from the system
(Debian: apt-get install nginx-light) and is found on PATH. A peer that is not there is null in the results.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = {"litellm": "litellm[proxy]==1.106.0", "vllm-router": "vllm-router==0.1.17"}
"""The folder's name (and the program's), and what pip installs: the versions that the published figures are of."""


def home(peer: str) -> Path:
    """The virtual environment of a peer."""
    return Path(os.environ.get("PILOTHOUSE_PEERS") or Path.home() / ".cache" / "pilothouse-peers") / peer


def program(peer: str) -> Path | None:
    """The peer's executable; None where it is not installed."""
    found = home(peer) / "bin" / peer
    return found if found.exists() else None


def version(peer: str) -> str | None:
    """The version that is installed there."""
    distribution = re.split(r"[\[=]", PEERS[peer])[0].replace("-", "_")
    found = next(home(peer).glob(f"lib/python*/site-packages/{distribution}-*.dist-info"), None)
    return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else None


def install(peer: str) -> None:
    """Make the environment anew and install the pinned version."""
    folder = home(peer)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", PEERS[peer]], check=True)


def main() -> None:
    """Install what is named, by default all that is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(PEERS)} (default: all that are missing)")
    given = parser.parse_args().peers
    unknown = [name for name in given if name not in PEERS]
    if unknown:
        parser.error(f"no peer is called {unknown[0]!r}; there are: {', '.join(PEERS)}")
    for peer in given or [name for name in PEERS if program(name) is None]:
        print(f"installing {PEERS[peer]} into {home(peer)}", flush=True)
        install(peer)
    for peer in PEERS:
        print(f"{peer} {version(peer) or 'not installed'}")


if __name__ == "__main__":
    main()
