"""Ports to listen on: a free one, whether one is free, and what to say when it is not."""

from __future__ import annotations

import os
import socket

from pilothouse.core.errors import UserError


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """UserError when somebody listens there already: said before the work, not after it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            raise unusable(host, port, e) from None


def unusable(host: str, port: int, error: OSError) -> UserError:
    """Why one cannot listen there, and what to do."""
    return UserError(
        f"port {port} cannot be used ({os.strerror(error.errno or 0).lower()})",
        where=f"{host}:{port}",
        fix="End what listens there, or choose another with --port.",
    )
