"""Limits of a key: exact at their borders, over processes, and across a process that dies with a lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.digest import of_secret
from pilothouse.serve.gateway import limits as limits_module
from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.limits import Key, Limits, Price
from pilothouse.serve.gateway.shared import Shared
from tests.serve.scripted import Wire, ask, front, run, streamed, whole


def key(row: int = 0, **limits: Any) -> Key:
    return Key("app", of_secret("secret"), row, 7, **limits)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(limits_module, "monotonic", lambda: self.now)


def refused(limits: Limits, k: Key, tokens: int = 1) -> ApiError | None:
    try:
        limits.enter(k, tokens)
    except ApiError as e:
        return e
    return None


def test_requests_a_minute_are_exact_and_say_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits, k = Clock(monkeypatch), Limits(Shared()), key(requests_per_minute=6)
    assert [refused(limits, k) for _ in range(6)] == [None] * 6
    no = refused(limits, k)
    assert no is not None and no.status == 429 and no.code == "rate_limit_exceeded"
    assert no.headers["retry-after"] == "10"  # 6 a minute: one every 10 s
    clock.now += 9.9
    assert refused(limits, k) is not None
    clock.now += 0.1
    assert refused(limits, k) is None
    clock.now += 3600
    assert [refused(limits, k) for _ in range(6)] == [None] * 6 and refused(limits, k) is not None


def test_tokens_are_charged_before_and_corrected_after(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    limits, k = Limits(Shared()), key(tokens_per_minute=1000)
    assert refused(limits, k, 900) is None
    no = refused(limits, k, 200)
    assert no is not None and no.headers["retry-after"] == "6"  # 100 too many at 1000/60 s
    limits.leave(k, 900, 50, 50)  # it had cost 100
    assert refused(limits, k, 900) is None and refused(limits, k, 1) is not None


def test_a_request_larger_than_the_bucket_passes_when_the_bucket_is_full_and_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, limits, k = Clock(monkeypatch), Limits(Shared()), key(tokens_per_minute=100)
    assert refused(limits, k, 300) is None
    clock.now += 119.0
    assert refused(limits, k, 1) is not None  # three minutes' worth went at once
    clock.now += 2.0
    assert refused(limits, k, 1) is None


def test_requests_at_a_time_and_budget() -> None:
    limits = Limits(Shared(), Price(input=1.0, output=2.0))
    k = key(concurrency=2, budget=3.0)
    assert refused(limits, k) is None and refused(limits, k) is None
    assert "2 requests at a time" in str(refused(limits, k))
    limits.leave(k, 1, 1_000_000, 0)
    assert limits.spent(k) == pytest.approx(1.0)
    assert refused(limits, k) is None
    limits.leave(k, 1, 0, 1_000_000)
    assert limits.spent(k) == pytest.approx(3.0)
    no = refused(limits, k)
    assert no is not None and no.code == "budget_exceeded"
    assert limits.used(k) == {
        "requests": 3.0,
        "tokens_in": 1e6,
        "tokens_out": 1e6,
        "cost": 3.0,
        "refused": 2.0,
        "running": 1.0,
    }


@given(st.integers(1, 50), st.lists(st.floats(0, 30), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_minute_ever_has_more_than_twice_the_limit_and_none_is_refused_below_its_rate(
    limit: int, gaps: list[float]
) -> None:
    """A bucket lets a full one through and what has flowed in since: at most limit × (1 + t/60) in any t seconds."""
    limits, k, now, passed = Limits(Shared()), key(requests_per_minute=limit), 1000.0, list[float]()
    before = limits_module.monotonic
    try:
        for gap in gaps:
            now += gap
            limits_module.monotonic = lambda now=now: now  # type: ignore[misc,assignment]
            if refused(limits, k) is None:
                passed.append(now)
            else:
                window = [t for t in passed if t > now - 60]
                assert len(window) >= 1  # only somebody who asked lately is refused
    finally:
        limits_module.monotonic = before  # type: ignore[assignment]
    for i, start in enumerate(passed):
        for n, end in enumerate(passed[i:], start=1):
            assert n <= limit * (1 + (end - start) / 60) + 1e-6


def _many(fd: int, process: int, n: int, passed: Any) -> None:
    limits, k = Limits(Shared(4, process, fd)), key(requests_per_minute=500)
    passed.put(sum(refused(limits, k) is None for _ in range(n)))


def test_four_processes_together_let_through_what_one_would() -> None:
    shared, context = Shared(4), multiprocessing.get_context("fork")
    passed = context.Queue()
    workers = [context.Process(target=_many, args=(shared.fd, p, 400, passed)) for p in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    total = sum(passed.get() for _ in workers)
    assert 500 <= total <= 510  # 500 at once, and what flowed in meanwhile (8 a second)
    assert shared.keys.total(0, sh.REQUESTS) == total and shared.keys.total(0, sh.REFUSED) == 1600 - total


def _die_with_the_lock(fd: int) -> None:
    shared = Shared(2, 1, fd)
    shared.keys.add(0, sh.RUNNING)
    shared.own.add(0, sh.IN_FLIGHT)
    shared.lock(0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_holding_a_lock_or_a_place_blocks_nobody() -> None:
    shared, context = Shared(2), multiprocessing.get_context("fork")
    dying = context.Process(target=_die_with_the_lock, args=(shared.fd,))
    dying.start()
    dying.join()
    limits, k = Limits(shared), key(requests_per_minute=5, concurrency=1)
    assert refused(limits, k) is not None  # the dead one still holds its place …
    shared.forget(1)
    assert refused(limits, k) is None  # … until its owner has noticed
    assert shared.own.total(0, sh.IN_FLIGHT) == 0.0


def test_through_the_gateway_a_limit_is_429_in_the_callers_form_and_usage_is_visible() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        await (wire.stream(streamed(["x"])) if request.get("stream") else wire.json(whole("x")))

    async def check() -> None:
        async with front(script, price=Price(10.0, 20.0)) as f:
            k = Key("app", of_secret("s3"), 0, requests_per_minute=2, models=("desk",), budget=5.0)
            f.gateway.configure(type(f.gateway.settings)(keys=(k,), price=Price(10.0, 20.0)))
            bearer = "Authorization: Bearer s3\r\n"
            assert (await f.post(ask(), headers=bearer)).status == 200
            assert (await f.post(ask(stream=True), headers="x-api-key: s3\r\n")).text() == "x"
            no = await f.post(ask(), headers=bearer)
            assert no.status == 429 and int(no.headers["retry-after"]) > 0
            assert no.json["error"]["type"] == "rate_limit_error"
            assert "2 requests a minute" in no.json["error"]["message"]
            anthropic = {"model": "desk", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
            no = await f.post(anthropic, path="/v1/messages", headers="x-api-key: s3\r\n")
            assert no.status == 429 and no.json["type"] == "error" and no.json["error"]["type"] == "rate_limit_error"
            other = await f.post({**ask(), "model": "desk-base"}, headers=bearer)
            assert other.status == 403 and other.json["error"]["code"] == "model_not_allowed"
            said = (await f.get("/v1/usage", headers=bearer)).json
            assert said["since_start"]["requests"] == 2 and said["since_start"]["refused"] == 2
            assert said["since_start"]["tokens_in"] == 22 and said["since_start"]["tokens_out"] == 6
            assert said["spent_this_month"] == pytest.approx((22 * 10 + 6 * 20) / 1e6)
            assert [m["id"] for m in (await f.get("/v1/models", headers=bearer)).json["data"]] == ["desk"]

    run(check())
