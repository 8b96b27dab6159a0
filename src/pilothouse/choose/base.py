"""What is known of a candidate model, and what was concluded from it: the records of this stage."""

from __future__ import annotations

from typing import Literal

import msgspec

Answer = Literal["yes", "no", "not known"]


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """The architecture of a dense decoder-only transformer, as its config.json has it.

    window: tokens that a sliding-window layer looks back on; window_layers: how many of `layers` are such.
    norms: normalisation vectors of length `hidden` in a layer. qk_norm: one more of length head_dim for q and for k.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    norms: int = 2
    qk_norm: bool = False
    window: int | None = None
    window_layers: int = 0

    @property
    def counted(self) -> int:
        """Parameters, added up from the shape: embeddings, attention, gated feed-forward, norms."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * query + 2 * self.hidden * keys
        attention += query + 2 * keys if self.qkv_bias else 0
        attention += 2 * self.head_dim if self.qk_norm else 0
        layer = attention + 3 * self.hidden * self.feed_forward + self.norms * self.hidden
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's facts and their source. `shape` is None for an architecture we cannot plan for; `gap` then says why.

    context: the longest the model was trained for, in tokens. languages: as its card states.
    """

    model: str
    parameters: int
    shape: Shape | None
    context: int | None
    source: str
    licence: str = ""
    languages: tuple[str, ...] = ()
    gap: str = ""


class Fit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes that serving needs, against what may be used. None where a part is not known."""

    weights: int
    kv_cache: int | None
    working: int
    usable: int

    @property
    def needed(self) -> int | None:
        """All of it."""
        return None if self.kv_cache is None else self.weights + self.kv_cache + self.working


class Speed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The least time per output token, in ms: one short request alone; every stream busy with a full context."""

    alone_ms: float
    full_ms: float


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One candidate, judged. `blocking`: why it cannot be taken; `remarks`: what to know beside that."""

    name: str
    source: str
    picked: bool
    facts: Facts | None
    fit: Fit | None
    speed: Speed | None
    fits: Answer
    licence: str
    licence_class: str
    licence_ok: Answer
    languages_ok: Answer
    blocking: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
