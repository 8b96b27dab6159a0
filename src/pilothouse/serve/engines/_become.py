"""Become a foreign program that ends with us: `python -m pilothouse.serve.engines._become PARENT SIGNAL PROGRAM ARG…`.

A foreign program does not ask to die with its parent; this module asks for it and then turns into that program: the
request outlives the change (prctl(2), PR_SET_PDEATHSIG). SIGNAL by name: SIGTERM for a program that has to end children
of its own first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

MODULE = "pilothouse.serve.engines._become"
STARTING = "pilothouse: starting"
_PR_SET_PDEATHSIG = 1


def becoming(program: str, *arguments: str, end: str = "SIGKILL") -> tuple[str, ...]:
    """Command line that becomes the program with these arguments, as a child of this process."""
    return (sys.executable, "-m", MODULE, str(os.getpid()), end, program, *arguments)


def main() -> None:
    """Become it. The line in the log parts this start from earlier ones."""
    parent, end, program = int(sys.argv[1]), signal.Signals[sys.argv[2]], sys.argv[3]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, end, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            return
    print(f"{STARTING} {Path(program).name}", file=sys.stderr, flush=True)
    os.execv(program, sys.argv[3:])


if __name__ == "__main__":
    main()
