"""Who may ask? Keys of callers, and protection of a keyless loopback gateway from web pages in a local browser."""

from __future__ import annotations

import hmac
import ipaddress
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from urllib.parse import urlsplit

from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import Request


class Access:
    """The rules of one gateway. keys: caller's name → key; none: only this machine may ask, and without a key."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = {name: key.encode() for name, key in keys.items()}

    def caller(self, request: Request) -> str:
        """The name behind the request's key ('' where none is asked for)."""
        if not self._keys:
            _same_machine(request)
            return ""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        name = self._name(given.strip()) if kind.lower() == "bearer" else None
        if name is None:
            raise ApiError(401, "invalid_api_key", "give a valid key as 'Authorization: Bearer KEY'")
        return name

    def page(self, request: Request) -> None:
        """May this request see the console? A browser gives the key as the password (RFC 7617); the name is free."""
        if not self._keys:
            _same_machine(request)
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        password = _password(given) if kind.lower() == "basic" else given.strip()
        if self._name(password) is None:
            raise ApiError(401, "invalid_api_key", "give a valid key as the password", ask_for="Basic")

    def figures(self, request: Request) -> None:
        """May this request read the metrics? This machine's processes always; others with a key."""
        if self._keys and not request.local:
            self.caller(request)

    def _name(self, given: str) -> str | None:
        """Every key is compared, each in constant time."""
        names = [name for name, key in self._keys.items() if hmac.compare_digest(key, given.encode())]
        return names[0] if names else None


def loopback(host: str) -> bool:
    """Is this a name or an address of this machine alone?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same_machine(request: Request) -> None:
    """A web page may make a browser on this machine call us (DNS rebinding, cross-site requests): refuse both."""
    host = urlsplit(f"//{request.headers.get('host', 'localhost')}").hostname or ""
    origin = request.headers.get("origin")
    if not loopback(host) or (origin is not None and not loopback(urlsplit(origin).hostname or "")):
        raise ApiError(
            403, "not_local", "a gateway without keys answers only this machine's own programs; set serve.keys_env"
        )


def _password(given: str) -> str:
    try:
        return b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
    except (Base64Error, ValueError):
        return ""
