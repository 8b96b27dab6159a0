"""Who may ask? Keys of callers, and protection of a keyless loopback gateway from web pages in a local browser."""

from __future__ import annotations

import ipaddress
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from time import time
from urllib.parse import urlsplit

from pilothouse.core.digest import of_secret
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.http import Request
from pilothouse.serve.gateway.limits import Key

_LATELY = 1024
NOBODY = Key(name="", digest="", row=sh.KEYS - 1)
"""Who asks where no key is asked for."""


class Access:
    """The rules of one gateway. No keys: only this machine may ask, and without a key. closed: a key is asked for all
    the same, so that a gateway whose last key was revoked does not open.

    Keys are looked up by their digest: how long that takes tells nothing about a secret.
    """

    def __init__(self, keys: Iterable[Key] = (), *, closed: bool = False) -> None:
        self._closed = closed
        self._keys = {key.digest: key for key in keys}
        self._lately: dict[str, Key] = {}

    @property
    def keyed(self) -> bool:
        """Is a key asked for?"""
        return self._closed or bool(self._keys)

    def caller(self, request: Request) -> Key:
        """The key of a request (NOBODY where none is asked for). Anthropic's clients send it as `x-api-key`."""
        if not self.keyed:
            _same_machine(request)
            return NOBODY
        header = request.headers.get("authorization", "")
        key = self._lately.get(header)
        if key is not None and key.expires is None:
            return key
        kind, _, given = header.partition(" ")
        bearer = kind.lower() == "bearer"
        secret = given.strip() if bearer else request.headers.get("x-api-key", "")
        key = self._known(secret)
        if key is not None and bearer and len(self._lately) < _LATELY:
            self._lately[header] = key  # the same header comes with every request of a client
        if key is None:
            raise ApiError(401, "invalid_api_key", "give a valid key as 'Authorization: Bearer KEY'")
        return key

    def page(self, request: Request) -> None:
        """May this request see the console? A browser gives the key as the password (RFC 7617); the name is free."""
        if not self.keyed:
            _same_machine(request)
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        password = _password(given) if kind.lower() == "basic" else given.strip()
        if self._known(password) is None:
            raise ApiError(401, "invalid_api_key", "give a valid key as the password", ask_for="Basic")

    def figures(self, request: Request, *, local: bool) -> None:
        """May this request read the metrics? This machine's processes always; others with a key."""
        if self.keyed and not local:
            self.caller(request)

    def _known(self, secret: str) -> Key | None:
        key = self._keys.get(of_secret(secret)) if secret else None
        return key if key is None or key.expires is None or key.expires > time() else None


def plain_keys(pairs: Mapping[str, str], first_row: int = 0) -> list[Key]:
    """Keys without limits from name → secret pairs (an environment variable), in memory's rows from `first_row` on."""
    return [Key(name=n, digest=of_secret(s), row=first_row + i) for i, (n, s) in enumerate(pairs.items())]


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
    host = request.headers.get("host", "localhost")
    if host not in _LOCAL:
        if not loopback(_name(f"//{host}")):
            raise _not_local()
        if len(_LOCAL) < 64:
            _LOCAL.add(host)
    origin = request.headers.get("origin")
    if origin is not None and not loopback(_name(origin)):
        raise _not_local()


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # no URL at all
        return ""


_LOCAL: set[str] = set()
"""Host headers found to be loopback's: the parse costs more than the rest of the check."""


def _not_local() -> ApiError:
    return ApiError(
        403, "not_local", "a gateway without keys answers only this machine's own programs; set serve.keys_env"
    )


def _password(given: str) -> str:
    try:
        return b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
    except (Base64Error, ValueError):
        return ""
