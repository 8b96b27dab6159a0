"""The console as a process of its own, on a unix socket behind the gateway."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

from pilothouse.core.errors import need
from pilothouse.store.store import Store


def main() -> None:
    """Serve on the unix socket until SIGTERM; access goes to no log, since the gateway in front has one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="folder of the store")
    parser.add_argument("--socket", required=True, help="path of the unix socket to listen on")
    parser.add_argument("--metrics", help="URL of the gateway's /metrics")
    parser.add_argument("--tied", action="store_true", help="end when standard input does: its owner has gone")
    options = parser.parse_args()
    if options.tied:
        threading.Thread(target=_end_with_owner, daemon=True).start()
    need("uvicorn", "console", "the console")
    import uvicorn

    from pilothouse.ui.console.app import app

    store = Store.open(options.store, create=False)
    uvicorn.run(app(store, options.metrics), uds=options.socket, access_log=False, log_level="warning")


def _end_with_owner() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
