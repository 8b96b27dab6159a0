"""What can a gateway be told, at its start and while it runs?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pilothouse.serve.gateway.ask import Tries
from pilothouse.serve.gateway.limits import Key, Price
from pilothouse.serve.gateway.upstream import Patience

if TYPE_CHECKING:
    from pilothouse.guard.policy import Policy


@dataclass(frozen=True)
class Settings:
    """What a gateway can be told, at its start and while it runs (`Gateway.configure`).

    keys: none, and only this machine's programs may ask. admission: `none`, `queue` or `slo` (ttft_s is its bound).
    traced: make a span id for every request.
    """

    policy: Policy | None = None
    keys: tuple[Key, ...] = ()
    body_limit: int = 1 << 20
    admission: str = "none"
    ttft_s: float | None = None
    price: Price = field(default_factory=Price)
    tries: Tries = field(default_factory=Tries)
    patience: Patience = field(default_factory=Patience)
    traced: bool = False
