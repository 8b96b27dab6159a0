"""What an engine must be: how it is launched, asked for an adapter, and read. `engines/` holds one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class EngineSpec:
    """What to serve. adapters: (name, file) in load order. context: tokens a request; streams: requests at a time."""

    model: Path
    alias: str
    adapters: tuple[tuple[str, Path], ...] = ()
    context: int = 2048
    streams: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """Can this engine run here? `reason` says why not, `install` how to change that."""

    version: str | None
    runs: bool
    reason: str = ""
    install: str = ""


@dataclass(frozen=True)
class Launch:
    """A process to start (argv empty: none, the engine runs elsewhere) and the URL it will answer at."""

    argv: tuple[str, ...]
    url: str
    env: Mapping[str, str] = field(default_factory=dict)
    api_key: str = ""


@dataclass(frozen=True)
class Gauges:
    """Load of an engine as it tells it: requests running and waiting, share of the KV cache in use."""

    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None


CAPABILITIES = ("streaming", "logprobs", "tools", "structured_output", "adapters", "prefix_cache")


class Engine(Protocol):
    """Knowledge of one engine. It starts nothing itself."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Which of CAPABILITIES it has."""

    def check(self) -> Check:
        """Installed? Which version? Can it run here?"""

    def launch(self, spec: EngineSpec, port: int) -> Launch:
        """How to start it for `spec` on a loopback port; UserError for what it cannot do."""

    def fields(self, adapter: str | None, spec: EngineSpec) -> dict[str, Any]:
        """Fields that a request's body must carry to be answered with that adapter (None: the base model)."""

    def gauges(self, metrics: str) -> Gauges:
        """Load, from the text of the engine's own /metrics."""

    def reason(self, log: str) -> str:
        """Why it ended, in one line, from the end of its log ('' when the log does not tell)."""
