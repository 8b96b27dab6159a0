"""An OpenAI-compatible service elsewhere: nothing is started; its key comes from an environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pilothouse.core.errors import UserError
from pilothouse.core.wire import target
from pilothouse.serve.base import Check, EngineSpec, Gauges, Launch

_WHERE = "pilothouse.yaml: serve.options"
_OPTIONS = ("url", "key_env", "model")


@dataclass(frozen=True)
class Remote:
    """Knowledge of a service behind a URL. Options: `url` (required), `key_env`, `model` (its own name for it)."""

    # What the protocol has; whether the service has it too shows when it is asked.
    capabilities = frozenset({"streaming", "logprobs", "tools", "structured_output"})

    def check(self) -> Check:
        """Nothing needs to be installed; whether it answers is seen at the start."""
        return Check("OpenAI protocol", True)

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """No process: the URL, and the key that `key_env` names."""
        unknown = sorted(set(spec.options) - set(_OPTIONS))
        if unknown:
            fix = f"It has: {', '.join(_OPTIONS)}."
            raise UserError(f"engine remote has no option {unknown[0]!r}", where=_WHERE, fix=fix)
        for name in _OPTIONS:
            value = spec.options.get(name, "")
            if not isinstance(value, str) or (name == "url" and not value):
                what = f"engine remote needs option {name!r} as text, got {value!r}"
                raise UserError(what, where=_WHERE, fix="For example: url: https://models.example.com")
        if spec.adapters:
            names = ", ".join(name for name, _ in spec.adapters)
            what = f"engine remote cannot load adapters ({names})"
            raise UserError(what, where=_WHERE, fix="Load the adapter there, or serve with engine llamacpp.")
        url = str(spec.options["url"])
        target(url)  # an address that cannot be used is said before anything waits for it
        return Launch((), url.rstrip("/").removesuffix("/v1"), api_key=_key(str(spec.options.get("key_env", ""))))

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """The service's own name for the model, where it differs from ours."""
        if adapter is not None:
            raise UserError(f"engine remote cannot choose adapter {adapter!r}", where=_WHERE)
        return {"model": spec.options["model"]} if spec.options.get("model") else {}

    def gauges(self, metrics: str) -> Gauges:
        """Unknown: the protocol has no figures."""
        return Gauges()

    def reason(self, log: str) -> str:
        """There is no log here."""
        return ""


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        what = f"environment variable {variable} is empty or not set"
        raise UserError(what, where=f"{_WHERE}.key_env", fix=f"For example: export {variable}=…")
    return key


def create() -> Remote:
    """The engine's knowledge; nothing is started."""
    return Remote()
