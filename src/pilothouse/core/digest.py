"""What a thing is, by its bytes: sha256 of files and of canonical JSON."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec


def of_bytes(data: bytes) -> str:
    """sha256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def of_secret(secret: str) -> str:
    """sha256 of a secret, hexadecimal: what is kept of it, and looked up. Whatever bytes a caller sent in a header."""
    return of_bytes(secret.encode("utf-8", "surrogateescape"))


def of_file(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal, in constant memory."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """sha256 of canonical JSON (sorted keys): equal data give equal digests whatever their key order."""
    return of_bytes(msgspec.json.encode(msgspec.to_builtins(value, order="sorted"), order="sorted"))
