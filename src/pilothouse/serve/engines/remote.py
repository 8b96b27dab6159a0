"""An OpenAI-compatible service elsewhere: nothing is started; its key comes from an environment variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pilothouse.core.errors import UserError
from pilothouse.serve.base import Check, EngineSpec, Format, Gauges, Launch, as_it_is, no_adapter_call
from pilothouse.serve.engines import _attached
from pilothouse.serve.engines._options import WHERE, Option, check_needs, read_options

_CAN = frozenset({"streaming", "logprobs", "tools", "structured_output", "embeddings"})
OPTIONS = (
    Option("url", str, None, "Address of the service, with or without a final /v1. Required."),
    Option("key_env", str, None, "Environment variable that holds the key to the service."),
    Option("model", str, None, "The service's own name for the model, where it differs from ours."),
    Option("lacks", list, (), "What the protocol has and this service has not.", choices=tuple(sorted(_CAN))),
)


@dataclass(frozen=True)
class Remote:
    """Knowledge of a service behind a URL."""

    format: ClassVar[Format] = "none"
    # What the protocol has. What the service lacks of it, option `lacks` says.
    capabilities: ClassVar[frozenset[str]] = _CAN
    adapter_call = staticmethod(no_adapter_call)
    rewrite = staticmethod(as_it_is)

    def check(self) -> Check:
        """Nothing needs to be installed; whether it answers is seen at the start."""
        return Check("OpenAI protocol", True, install="nothing to install: set serve.options.url")

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """The capabilities without those that option `lacks` names."""
        return self.capabilities - set(read_options("remote", spec.options, OPTIONS)["lacks"])

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """No process: the URL, and the key that `key_env` names."""
        given = read_options("remote", spec.options, OPTIONS)
        check_needs("remote", self.can(spec), spec)
        url = _attached.base_url("remote", given["url"])
        return Launch((), url, api_key=_attached.key_of(given["key_env"]), patience_s=20.0)

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """The service's own name for the model, where it differs from ours."""
        if adapter is not None:
            raise UserError(f"engine remote cannot choose adapter {adapter!r}", where=WHERE)
        return {"model": spec.options["model"]} if spec.options.get("model") else {}

    def gauges(self, metrics: str) -> Gauges:
        """Unknown: the protocol has no figures."""
        return Gauges()

    def reason(self, log: str) -> str:
        """There is no log here."""
        return ""


def create() -> Remote:
    """The engine's knowledge; nothing is started."""
    return Remote()
