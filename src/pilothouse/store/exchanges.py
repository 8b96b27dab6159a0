"""What did production do lately? The newest exchanges, and measures over a window of them."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import msgspec
import sqlalchemy as sa

from pilothouse.core import stats
from pilothouse.core.records import Measure
from pilothouse.store import schema
from pilothouse.store.store import Store


def recent(store: Store, *, limit: int = 20) -> list[dict[str, Any]]:
    """The newest exchanges as plain data, newest first; findings and request decoded."""
    t = schema.exchanges
    with store.engine.connect() as c:
        rows = c.execute(sa.select(t).order_by(t.c.at.desc()).limit(limit)).mappings().all()
    return [
        {
            **row,
            "findings": msgspec.json.decode(row["findings"]),
            "request": msgspec.json.decode(row["request"]) if row["request"] else None,
        }
        for row in rows
    ]


def window(store: Store, *, seconds: float, now: float | None = None) -> tuple[list[Measure], dict[str, int]]:
    """Measures over the exchanges of the last `seconds`, and how often the guard decided what."""
    t, end = schema.exchanges, time.time() if now is None else now
    columns = (t.c.status, t.c.ttft_ms, t.c.latency_ms, t.c.tokens_out, t.c.guard)
    with store.engine.connect() as c:
        rows = c.execute(sa.select(*columns).where(t.c.at > end - seconds, t.c.at <= end)).all()
    good = [r for r in rows if r.status < 400]
    ttft = [r.ttft_ms for r in good if r.ttft_ms is not None]
    latency = [r.latency_ms for r in good if r.latency_ms is not None]
    tokens = sum(r.tokens_out or 0 for r in good)
    over = f"the last {seconds:g} s"
    measures = [
        Measure(
            "live.rate", len(rows) / seconds, "req/s", n=len(rows), method=f"requests over {over}", label="requests"
        ),
        stats.share("live.errors", len(rows) - len(good), len(rows), better="lower", label="requests that failed"),
        stats.quantile("live.ttft_p50", ttft, 0.5, label="time to first token, half of requests"),
        stats.quantile("live.ttft_p90", ttft, 0.9, label="time to first token, nine of ten"),
        stats.quantile("live.latency_p50", latency, 0.5, label="whole answer, half of requests"),
        stats.quantile("live.latency_p90", latency, 0.9, label="whole answer, nine of ten"),
        Measure(
            "live.tokens_per_s",
            tokens / seconds,
            "tok/s",
            n=len(good),
            method=f"output tokens over {over}",
            label="output",
        ),
    ]
    return measures, dict(Counter(r.guard for r in rows).most_common())
