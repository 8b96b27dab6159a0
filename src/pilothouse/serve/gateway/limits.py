"""May this key ask now? Requests and tokens a minute, requests at a time, money a month; exact over all processes.

The two rates are token buckets in their virtual-scheduling form (GCRA, ITU-T I.371): one time a bucket, "when it will
be full again"; a bucket holds a minute's worth. Tokens are charged before as what the request may cost (prompt and
max_tokens) and corrected when the engine has counted.
"""

from __future__ import annotations

from math import ceil
from time import monotonic

import msgspec

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.errors import ApiError

_MINUTE = 60.0
_EPSILON = 1e-6


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as the gateway knows it: digest (SHA-256, hex) of the secret, limits (None: none), its row in memory.

    A key's secret is 32 random bytes, so its plain digest cannot be guessed at. models: names it may ask for (empty:
    all). budget: money a calendar month; expires: seconds since 1970. id: the store's (0: not from the store).
    """

    name: str
    digest: str
    row: int
    id: int = 0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget: float | None = None
    models: tuple[str, ...] = ()
    expires: float | None = None


class Price(msgspec.Struct, frozen=True):
    """Money for a million tokens."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Of one exchange."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Limits:
    """Checks and counts by key, over shared memory."""

    def __init__(self, shared: sh.Shared, price: Price | None = None) -> None:
        self._shared, self.price = shared, price or Price()

    def enter(self, key: Key, tokens: int) -> None:
        """Count a request of about so many tokens in; ApiError 429 with Retry-After when a limit forbids it."""
        shared, row = self._shared, key.row
        keys = shared.keys
        rated = key.requests_per_minute is not None or key.tokens_per_minute is not None
        alone = rated or key.concurrency is not None
        if alone:
            shared.lock(row)
        try:
            if key.concurrency is not None and keys.total(row, sh.RUNNING) >= key.concurrency:
                raise _limited(f"{key.concurrency} requests at a time", 1.0)
            if key.budget is not None and self.spent(key) >= key.budget:
                raise ApiError(429, "budget_exceeded", f"key {key.name!r} has used up its budget of {key.budget:g}")
            if rated:
                self._charge(key, tokens)
            cells, at = keys.cells, keys.at(row)
            cells[at + sh.RUNNING] += 1.0
            cells[at + sh.REQUESTS] += 1.0
        except ApiError:
            keys.add(row, sh.REFUSED)
            raise
        finally:
            if alone:
                shared.unlock(row)

    def leave(self, key: Key, charged: int, tokens_in: int, tokens_out: int) -> None:
        """The request is over and has cost so much."""
        keys, row = self._shared.keys, key.row
        cells, at = keys.cells, keys.at(row)
        cells[at + sh.RUNNING] -= 1.0
        if tokens_in or tokens_out:
            cells[at + sh.TOKENS_IN] += tokens_in
            cells[at + sh.TOKENS_OUT] += tokens_out
            cells[at + sh.COST] += self.price.cost(tokens_in, tokens_out)
        difference = tokens_in + tokens_out - charged
        if key.tokens_per_minute is not None and difference:
            self._shared.lock(row)
            self._shared.buckets.add(row, sh.B_TOKENS, difference * _MINUTE / key.tokens_per_minute)
            self._shared.unlock(row)

    def spent(self, key: Key) -> float:
        """Money since the month began: before this gateway started, and since."""
        return self._shared.buckets.own(key.row, sh.B_SPENT) + self._shared.keys.total(key.row, sh.COST)

    def used(self, key: Key) -> dict[str, float]:
        """What this gateway has counted for the key since its start."""
        return dict(zip(sh.KEY_COLUMNS, self._shared.keys.sums(key.row), strict=True))

    def _charge(self, key: Key, tokens: int) -> None:
        """Both buckets or none. A request larger than a whole bucket waits for a full one: it could never pass else."""
        row, now = key.row, monotonic()
        cells, at = self._shared.buckets.cells, self._shared.buckets.at(row)
        full_requests = full_tokens = 0.0
        if (limit := key.requests_per_minute) is not None:
            full_requests = max(cells[at + sh.B_REQUESTS], now) + _MINUTE / limit
            if full_requests - now > _MINUTE + _EPSILON:
                raise _limited(f"{limit} requests a minute", full_requests - now - _MINUTE)
        if (limit := key.tokens_per_minute) is not None:
            start = max(cells[at + sh.B_TOKENS], now)
            wait = start + min(tokens, limit) * _MINUTE / limit - now - _MINUTE
            if wait > _EPSILON:
                raise _limited(f"{limit} tokens a minute", wait)
            full_tokens = start + tokens * _MINUTE / limit
        if full_requests:
            cells[at + sh.B_REQUESTS] = full_requests
        if full_tokens:
            cells[at + sh.B_TOKENS] = full_tokens


def _limited(limit: str, wait_s: float) -> ApiError:
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"this key is limited to {limit}; try again in {wait_s:.1f} s",
        retry_after_s=max(1, ceil(wait_s)),
    )
