"""What an engine must be: how it is launched, asked for an adapter, and read. `engines/` holds one file each.

Every engine is asked in OpenAI's protocol. One that does not speak it is launched with a thin front of its own
(`engines/_openai_front.py`) that does, in a process of its own, so that the gateway knows one protocol only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Format = Literal["gguf", "hf", "none"]
"""What a model and its adapters must lie as: GGUF files, Hugging Face folders (config.json and safetensors; PEFT's
adapter_config.json), or nothing at all: the service has them."""

CAPABILITIES = (
    "streaming",
    "logprobs",
    "tools",
    "structured_output",
    "adapters",
    "hot_adapters",
    "prefix_cache",
    "embeddings",
)
"""hot_adapters: loaded and unloaded while it runs. The rest are what a request may ask for."""


@dataclass(frozen=True)
class EngineSpec:
    """What to serve. model and adapters (name, path) lie in the engine's `format`, adapters in load order.

    context: tokens a request may hold. streams: requests at a time. options: `serve.options` of the project, the
    engine's own. needs: capabilities that the project cannot do without. replicas: how many like it share this machine.
    """

    model: Path
    alias: str
    adapters: tuple[tuple[str, Path], ...] = ()
    context: int = 2048
    streams: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    replicas: int = 1


@dataclass(frozen=True)
class Check:
    """Can this engine run here? `reason` says why not, `install` how to change that."""

    version: str | None
    runs: bool
    reason: str = ""
    install: str = ""


@dataclass(frozen=True)
class Launch:
    """A process to start (argv empty: none, the engine runs elsewhere) and the URL it will answer at.

    metrics: where its figures are ('': `url`/metrics). patience_s: how long its first answer may take.
    """

    argv: tuple[str, ...]
    url: str
    env: Mapping[str, str] = field(default_factory=dict)
    api_key: str = ""
    metrics: str = ""
    patience_s: float = 300.0


@dataclass(frozen=True)
class Gauges:
    """Load of an engine as it tells it: requests running and waiting, share of the KV cache in use."""

    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None


class Engine(Protocol):
    """Knowledge of one engine. It starts nothing and asks nothing itself."""

    @property
    def format(self) -> Format:
        """What it reads."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Which of CAPABILITIES it has."""

    def can(self, spec: EngineSpec) -> frozenset[str]:
        """Which of its capabilities it has with these options."""

    def check(self) -> Check:
        """Installed? Which version? Can it run here?"""

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """How to start it for `spec` on a loopback port; UserError for what it cannot do."""

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """Fields that a request's body must carry to be answered with that adapter (None: the base model)."""

    def rewrite(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as this engine wants it. Most speak OpenAI's form: `rewrite = staticmethod(as_it_is)`."""

    # An engine whose answers are not quite OpenAI's has `answers(model, asked)` too: what turns each of its answers,
    # chunks and errors into OpenAI's form.

    def adapter_call(self, verb: Literal["load", "unload"], name: str, path: Path) -> tuple[str, dict[str, Any]] | None:
        """Path and body of the POST that loads or unloads an adapter while it runs; None: it needs a restart."""

    def gauges(self, metrics: str) -> Gauges:
        """Load, from the text of the engine's own figures."""

    def reason(self, log: str) -> str:
        """Why it ended, in one line, from the end of its log ('' when the log does not tell)."""


def no_adapter_call(*_: object) -> None:
    """For engines that cannot: `adapter_call = staticmethod(no_adapter_call)`."""
    return


def as_it_is(body: dict[str, Any]) -> dict[str, Any]:
    """For engines that speak OpenAI's form: `rewrite = staticmethod(as_it_is)`. The gateway then does not even ask."""
    return body
