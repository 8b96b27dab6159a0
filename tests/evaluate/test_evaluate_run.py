"""Evaluation through a real HTTP endpoint that can fail: pairing, the third state, resume, what the report says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fake_endpoint import FakeEndpoint, Reply, serving

from pilothouse.core import stats
from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message, Row
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Evaluate
from pilothouse.core.records import Endpoint, Outcome
from pilothouse.evaluate.run import Output, pick, run
from pilothouse.store.runs import Context
from pilothouse.store.store import Store

INTENTS = ("refund", "baggage", "status")


def answer_of(i: int) -> str:
    return json.dumps({"intent": INTENTS[i % 3], "slots": {"ref": f"R{i}"}})


ROWS = [Row(f"row-{i}", (Message("user", f"message {i}"),), answer_of(i), tags=(INTENTS[i % 3],)) for i in range(30)]


def index(request: dict[str, Any]) -> int:
    return int(request["messages"][-1]["content"].split()[-1])


def good(request: dict[str, Any]) -> Reply:
    """The tuned arm is right but for every tenth row; the base arm only on every fifth, with talk round it."""
    i = index(request)
    if request["model"] == "tuned":
        return Reply(answer_of(i) if i % 10 else "no idea")
    return Reply(f"Sure: {answer_of(i)}" if i % 5 == 0 else "I am a small model")


@pytest.fixture
def ctx(store: Store, tmp_path: Path) -> Context:
    folder = tmp_path / "run"
    folder.mkdir()
    return Context("evaluate-test", store, folder, logging.getLogger("test"), Silent())


def evaluate(ctx: Context, fake: FakeEndpoint, **settings: Any) -> Outcome:
    arms = {"base": Endpoint(fake.url, "base"), "tuned": Endpoint(fake.url, "tuned")}
    chosen = {"metrics": ("json-valid", "intent-match", "slot-f1"), "rows": 30, **settings}
    return run(ctx, Evaluate(**chosen), ROWS, arms)


def test_arms_are_compared_row_by_row(ctx: Context) -> None:
    with serving(good) as fake:
        outcome = evaluate(ctx, fake)
    measure = outcome.report.measure
    base, tuned = measure("evaluate.intent_match.base"), measure("evaluate.intent_match.tuned")
    delta = measure("evaluate.intent_match.delta")
    assert base and tuned and delta
    assert (base.value, tuned.value, base.n) == (6 / 30, 27 / 30, 30)
    assert delta.value == pytest.approx(21 / 30)
    assert delta.low is not None and delta.low > 0
    # rows 0, 10, 20 are won by base alone; 24 rows by tuned alone
    new, old = [i % 10 != 0 for i in range(30)], [i % 5 == 0 for i in range(30)]
    assert stats.sign_test(new, old) < 1e-4
    assert "exact McNemar p < 0.0001 (24 rows won, 3 lost)" in delta.method
    valid = measure("evaluate.json_valid.base")
    assert valid is not None and valid.value == 0.0 and valid.high is not None and valid.high > 0
    assert {r["temperature"] for r in fake.requests} == {0}
    assert len(fake.requests) == 60


def test_the_outputs_asset_holds_every_answer_and_score(ctx: Context) -> None:
    with serving(good) as fake:
        outcome = evaluate(ctx, fake)
    lines = ctx.store.read(outcome.outputs["outputs"], "outputs.jsonl").splitlines()
    outputs = [msgspec.json.decode(line, type=Output) for line in lines]
    assert {o.row for o in outputs} == {r.id for r in ROWS}
    mean = sum(o.scores["tuned"]["slot-f1"].value or 0 for o in outputs) / 30
    measure = outcome.report.measure("evaluate.slot_f1.tuned")
    assert measure is not None and measure.value == pytest.approx(mean)


def test_the_report_slices_by_tag_and_shows_failures_first(ctx: Context) -> None:
    with serving(good) as fake:
        report = evaluate(ctx, fake).report
    tags = next(t for t in report.tables if t.title == "tuned by tag")
    assert {r[0]: r[1] for r in tags.rows} == dict.fromkeys(INTENTS, 10)
    assert tags.columns == ["tag", "rows", "valid JSON", "intent", "slot F1"]
    assert {r[0]: r[3] for r in tags.rows} == dict.fromkeys(INTENTS, 0.9)
    examples = next(t for t in report.tables if t.title == "Examples")
    assert len(examples.rows) == 8
    assert [r[-1] for r in examples.rows[:3]] == ["no idea"] * 3
    assert report.plots[0].kind == "interval"
    assert [s.name for s in report.plots[0].series] == ["base", "tuned"]
    assert "intent 20.0 % → 90.0 %" in report.summary


def test_a_failed_request_is_no_number_and_leaves_the_pair(ctx: Context) -> None:
    def flaky(request: dict[str, Any]) -> Reply:
        if request["model"] == "base" and index(request) in (3, 4):
            return Reply("boom", status=500)
        return good(request)

    with serving(flaky) as fake:
        report = evaluate(ctx, fake).report
        asked = [index(r) for r in fake.requests if r["model"] == "base"]
    assert asked.count(3) == asked.count(4) == 2  # asked once more, at the end of the call
    for arm in ("base", "tuned", "delta"):
        measure = report.measure(f"evaluate.intent_match.{arm}")
        assert measure is not None and measure.n == 28
    errors = report.measure("evaluate.errors.base")
    assert errors is not None and errors.value == pytest.approx(2 / 30) and errors.better == "lower"
    base = report.measure("evaluate.intent_match.base")
    assert base is not None and base.value == pytest.approx(6 / 28)


def test_a_guards_block_is_an_answer_and_scored_as_given(ctx: Context) -> None:
    def guarded(request: dict[str, Any]) -> Reply:
        if request["model"] == "tuned" and index(request) == 1:
            return Reply("I can't help with that.", finish="content_filter")
        return good(request)

    with serving(guarded) as fake:
        report = evaluate(ctx, fake).report
    measure = report.measure("evaluate.intent_match.tuned")
    assert measure is not None and (measure.n, measure.value) == (30, 26 / 30)
    assert "1 blocked by a guard" in report.facts["tuned"]


def test_a_cut_run_goes_on_without_asking_again(ctx: Context) -> None:
    with serving(good) as fake:
        whole = evaluate(ctx, fake, concurrency=1)
        journal = ctx.folder / "outputs-tuned.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:17]) + lines[17][:20])  # killed in the middle of the 18th line
        fake.requests.clear()
        resumed = evaluate(ctx, fake, concurrency=1)
    assert [r["model"] for r in fake.requests] == ["tuned"] * 13
    assert resumed.report == whole.report
    assert resumed.outputs["outputs"].digest == whole.outputs["outputs"].digest


def test_ctrl_c_keeps_what_was_answered(ctx: Context) -> None:
    class Interrupting(Silent):
        def __init__(self) -> None:
            self.seen = 0

        def advance(self, n: int = 1, **figures: float | str) -> None:
            self.seen += n
            if self.seen == 10:
                raise KeyboardInterrupt

    with serving(good) as fake:
        cut = Context(ctx.id, ctx.store, ctx.folder, ctx.log, Interrupting())
        with pytest.raises(KeyboardInterrupt):
            evaluate(cut, fake)
        kept = len((ctx.folder / "outputs-base.jsonl").read_bytes().splitlines())
        assert 10 <= kept < 30
        fake.requests.clear()
        evaluate(ctx, fake)
        again = {index(r) for r in fake.requests if r["model"] == "base"}
    assert len(again) == 30 - kept


def test_errors_are_asked_again_on_resume(ctx: Context) -> None:
    broken = {"on": True}

    def mending(request: dict[str, Any]) -> Reply:
        return Reply(status=503) if broken["on"] and index(request) == 2 else good(request)

    with serving(mending) as fake:
        first = evaluate(ctx, fake).report.measure("evaluate.errors.tuned")
        broken["on"] = False
        fake.requests.clear()
        second = evaluate(ctx, fake).report.measure("evaluate.errors.tuned")
    assert first is not None and first.value == pytest.approx(1 / 30)
    assert second is not None and second.value == 0
    assert sorted(r["model"] for r in fake.requests) == ["base", "tuned"]


def test_an_endpoint_that_never_answers_fails_the_stage(ctx: Context) -> None:
    with serving(lambda _: Reply("the engine is loading", status=503)) as fake:
        with pytest.raises(UserError, match=r"none of 30 requests was answered.*the engine is loading"):
            evaluate(ctx, fake)
        fake.answer = good
        assert evaluate(ctx, fake).report.measure("evaluate.errors.base").value == 0  # type: ignore[union-attr]


def test_a_metric_that_fits_no_row_has_no_value(ctx: Context) -> None:
    plain = [Row(f"p{i}", (Message("user", f"say {i}"),), "plain text") for i in range(3)]
    with serving(lambda _: Reply("words")) as fake:
        settings = Evaluate(metrics=("intent-match", "token-f1"), rows=3)
        report = run(ctx, settings, plain, {"tuned": Endpoint(fake.url, "tuned")}).report
    intent, f1 = report.measure("evaluate.intent_match.tuned"), report.measure("evaluate.token_f1.tuned")
    assert intent is not None and intent.value is None and "no intent" in intent.method
    assert f1 is not None and f1.value == 0
    assert report.measure("evaluate.token_f1.delta") is None


def test_rows_are_chosen_by_digest_whatever_their_order() -> None:
    assert pick(ROWS, 7) == pick(list(reversed(ROWS)), 7)
    assert set(pick(ROWS, 7)) <= set(pick(ROWS, 12))
    with pytest.raises(UserError, match="share their id"):
        pick([ROWS[0], ROWS[0]], 2)


def test_an_unknown_metric_is_named_with_its_nearest(ctx: Context) -> None:
    with pytest.raises(UserError, match="Did you mean 'intent-match'"):
        run(ctx, Evaluate(metrics=("intent-mach",)), ROWS, {"tuned": Endpoint("http://127.0.0.1:9", "m")})
