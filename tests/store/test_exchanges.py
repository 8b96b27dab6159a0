"""The window over exchanges: counts, quantiles and guard decisions of that window only, none of it invented."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from pilothouse.store import exchanges, schema
from pilothouse.store.store import Store


def add(
    store: Store, n: int, *, at: float, status: int = 200, ttft: float | None = None, guard: str = "passed"
) -> None:
    row = {"id": f"e{n}", "at": at, "release": "r", "model": "m", "caller": "", "stream": False, "status": status}
    row |= {"ttft_ms": ttft, "latency_ms": ttft, "tokens_out": 10 if status < 400 else None, "guard": guard}
    with store.engine.begin() as c:
        c.execute(sa.insert(schema.exchanges).values(findings=msgspec.json.encode([]), **row))


def test_a_window_counts_what_lies_in_it_and_failures_are_no_answers(store: Store) -> None:
    for n in range(9):
        add(store, n, at=1000.0 + n, ttft=100.0 + n)
    add(store, 9, at=1009.0, status=503, guard="blocked")
    add(store, 10, at=900.0, ttft=9999.0)  # before the window
    add(store, 11, at=1020.0, ttft=9999.0)  # after its end
    measures, decisions = exchanges.window(store, seconds=20, now=1010.0)
    found = {m.name: m for m in measures}
    assert (found["live.rate"].value, found["live.rate"].n) == (0.5, 10)
    assert found["live.errors"].value == 0.1
    assert (found["live.ttft_p50"].value, found["live.ttft_p50"].n) == (104.0, 9)
    assert found["live.tokens_per_s"].value == 90 / 20
    assert decisions == {"passed": 9, "blocked": 1}


def test_an_empty_window_has_no_values_but_rates_of_zero(store: Store) -> None:
    measures, decisions = exchanges.window(store, seconds=60)
    assert {m.name for m in measures if m.value is not None} == {"live.rate", "live.tokens_per_s"}
    assert decisions == {} and exchanges.recent(store) == []


def test_the_newest_come_first_and_decoded(store: Store) -> None:
    for n in range(5):
        add(store, n, at=float(n))
    found = exchanges.recent(store, limit=3)
    assert [e["id"] for e in found] == ["e4", "e3", "e2"] and found[0]["findings"] == [] and found[0]["request"] is None
