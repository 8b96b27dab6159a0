"""The process between Pilothouse and an engine: the engine, and all that it starts, ends when Pilothouse ends.

    python -I -S warden.py COMMAND …

Its standard input is a pipe that Pilothouse holds: at its end (Pilothouse has died, however) the engine's whole process
group is killed. SIGTERM is handed on to the engine. When the engine ends, what it left behind in its group is killed
too. The first line of standard output is the engine's process id; the exit code is the engine's (128 + n for signal n).
Only the standard library is imported, and little of it: there is one of these per engine.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Start, tell, wait."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None

    def tied() -> None:  # in the child, before it becomes the engine; the kernel keeps this over exec
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole terminal; only the supervisor decides
    out = os.dup(1)
    os.dup2(2, 1)  # the engine's output goes where our errors go: its log
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tied)
    except OSError as e:
        print(f"{sys.argv[1]}: {e.strerror}", file=sys.stderr, flush=True)
        sys.exit(127)
    os.write(out, b"%d\n" % child.pid)
    os.close(out)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_watch, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _kill(child.pid)
    sys.exit(code if code >= 0 else 128 - code)


def _watch(group: int) -> None:
    """Until Pilothouse lets go of the pipe."""
    while os.read(0, 1):
        pass
    _kill(group)
    os._exit(0)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
