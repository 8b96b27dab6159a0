"""The process that `tgi` launches: TGI's launcher, which gets its SIGTERM however this process ends.

TGI's launcher puts its router and shards into process groups of their own and ends them itself, on SIGTERM. Killed, as
an engine's process group is when Pilothouse dies, it would leave them behind with the GPU's memory; so it runs in a
session of its own, tied to this process by prctl(2) (PR_SET_PDEATHSIG).

    python -m pilothouse.serve.engines._tgi_process LAUNCHER ARG…
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys

from pilothouse.serve.engines._become import STARTING

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Start it, hand SIGTERM on, end as it ends."""
    print(STARTING, "text-generation-launcher", file=sys.stderr, flush=True)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None

    def tied() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    launcher = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tied)
    signal.signal(signal.SIGTERM, lambda *_: launcher.terminate())
    code = launcher.wait()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
