"""Which model names the gateway answers to, and what stands behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Route:
    """What a model name means: an adapter (None: the base model), the default system prompt, the release's id."""

    adapter: str | None = None
    system_prompt: str = ""
    release: str = ""


class Backend(Protocol):
    """An engine as the gateway sees it; `serve.supervisor.Supervisor` is one."""

    url: str
    api_key: str
    ready: asyncio.Event
    restarts: int
    failure: str

    def fields(self, adapter: str | None) -> Mapping[str, Any]:
        """Body fields that choose the adapter."""

    @property
    def alias(self) -> str:
        """The model name that the engine itself knows."""
