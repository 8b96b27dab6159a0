"""Say in the log that a start begins, then become a foreign program, whose own log would not part its starts.

python -m pilothouse.serve.engines._become PROGRAM ARG…
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STARTING = "pilothouse: starting"


def becoming(program: str, *arguments: str) -> tuple[str, ...]:
    """Command line that becomes the program with these arguments."""
    return (sys.executable, "-m", "pilothouse.serve.engines._become", program, *arguments)


def main() -> None:
    """Say it, become it."""
    print(STARTING, Path(sys.argv[1]).name, file=sys.stderr, flush=True)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
