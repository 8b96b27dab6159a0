"""An engine that runs already, started by somebody else: where is it, what key does it want, what does it say?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.core.wire import target
from pilothouse.serve.engines._options import WHERE, Option

URL = Option("url", str, None, "Address of one that runs already: it is attached to, not started.")
KEY_ENV = Option("key_env", str, None, "Environment variable that holds the key to that address.")
_PATIENCE_S = 5.0
_LIMIT = 4 << 20


def base_url(engine: str, url: str | None) -> str:
    """The address without a final `/v1`. UserError when there is none or it cannot be used."""
    if not url:
        what = f"engine {engine} needs option 'url' as text, got {url!r}"
        raise UserError(what, where=WHERE, fix="For example: url: https://models.example.com")
    target(url)
    return url.rstrip("/").removesuffix("/v1")


def key_of(variable: str | None) -> str:
    """The key that an environment variable holds; '' where none is named."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        what = f"environment variable {variable} is empty or not set"
        raise UserError(what, where=f"{WHERE}.key_env", fix=f"For example: export {variable}=…")
    return key


def ask(url: str, path: str, key: str = "", *, body: Any = None, kind: type = dict, fix: str = "") -> Any:
    """JSON of the wanted kind from one GET (with a body: POST) within 5 s, no proxy between; else a UserError."""
    place = target(url)
    make = HTTPSConnection if place.tls else HTTPConnection
    connection = make(place.host, place.port, timeout=_PATIENCE_S)
    head = {"accept": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        if body is None:
            connection.request("GET", f"{place.path}{path}", headers=head)
        else:
            head["content-type"] = "application/json"
            connection.request("POST", f"{place.path}{path}", body=json.dumps(body), headers=head)
        answer = connection.getresponse()
        text = answer.read(_LIMIT)
    except (OSError, HTTPException) as e:
        reason = f"{e}" or type(e).__name__
        raise UserError(f"{path} does not answer ({reason})", where=url, fix="Start the engine there first.") from None
    finally:
        connection.close()
    fix = fix or "Is it the engine that serve.engine names?"
    if answer.status != 200:
        fix = "Check option key_env." if answer.status in (401, 403) else fix
        raise UserError(f"{path} answers {answer.status}", where=url, fix=fix)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{path} does not answer as expected", where=url, fix=fix)
    return value


def refuse_launch_options(engine: str, given: Mapping[str, Any], also: tuple[str, ...] = ()) -> None:
    """UserError for options that would need a start: nothing is started. also: those that still mean something."""
    extra = sorted(name for name, value in given.items() if value is not None and name not in ("url", "key_env", *also))
    if extra:
        what = f"option {extra[0]!r} has no effect with option 'url': engine {engine} is not started here"
        raise UserError(what, where=WHERE, fix="Drop one of them.")
