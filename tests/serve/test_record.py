"""The recorder: exchanges and feedback in the store, in batches, never blocking, never silently lost."""

from __future__ import annotations

import msgspec
import pytest
import sqlalchemy as sa

from pilothouse.core.records import Finding
from pilothouse.serve import recorder as record_module
from pilothouse.serve.gateway.record import Exchange
from pilothouse.serve.recorder import StoreRecorder
from pilothouse.store import schema
from pilothouse.store.store import Store


def exchange(n: int) -> Exchange:
    return Exchange(
        id=f"req_{n}",
        at=float(n),
        release="r1",
        model="desk",
        caller="app",
        stream=True,
        status=200,
        ttft_ms=12.5,
        latency_ms=80.0,
        tokens_in=7,
        tokens_out=3,
        guard="redacted",
        findings=(Finding("pii", "email", 1.0, action="redact"),),
        request=[{"role": "user", "content": "mail [EMAIL]"}],
        answer="done",
    )


def rows(store: Store) -> list[sa.RowMapping]:
    with store.engine.connect() as c:
        return list(c.execute(sa.select(schema.exchanges).order_by(schema.exchanges.c.at)).mappings())


def test_all_records_are_kept_in_full(store: Store) -> None:
    recorder = StoreRecorder(store, record_text=True)
    for n in range(1200):
        recorder.record(exchange(n))
    recorder.close()
    kept = rows(store)
    assert [r["id"] for r in kept] == [f"req_{n}" for n in range(1200)] and recorder.dropped == 0
    assert msgspec.json.decode(kept[0]["request"]) == exchange(0).request and kept[0]["answer"] == "done"
    assert msgspec.json.decode(kept[0]["findings"], type=list[Finding]) == list(exchange(0).findings)


def test_without_record_text_only_figures_are_kept(store: Store) -> None:
    recorder = StoreRecorder(store, record_text=False)
    recorder.record(exchange(1))
    recorder.close()
    (kept,) = rows(store)
    assert kept["request"] is None and kept["answer"] is None and kept["tokens_out"] == 3


def test_feedback_finds_an_exchange_that_was_recorded_just_before(store: Store) -> None:
    recorder = StoreRecorder(store, record_text=True)
    recorder.record(exchange(1))
    assert recorder.keep("req_1", "thumb", "down")
    assert not recorder.keep("req_9", "thumb", "up")
    recorder.close()
    with store.engine.connect() as c:
        assert [(f.exchange, f.kind, f.value) for f in c.execute(sa.select(schema.feedback))] == [
            ("req_1", "thumb", "down")
        ]


def test_what_does_not_fit_is_counted_and_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "_QUEUE", 50)
    monkeypatch.setattr(record_module.threading.Thread, "start", lambda _: None)  # a writer that does not come round
    recorder = StoreRecorder(store, record_text=True)
    for n in range(80):
        recorder.record(exchange(n))
    assert recorder.dropped == 30


def test_a_write_that_fails_is_counted(store: Store) -> None:
    recorder = StoreRecorder(store, record_text=True)
    recorder.record(exchange(1))
    recorder.keep("req_1", "thumb", "up")  # waits until it is written
    recorder.record(exchange(1))  # the same id again
    recorder.close()
    assert recorder.dropped == 1 and len(rows(store)) == 1
