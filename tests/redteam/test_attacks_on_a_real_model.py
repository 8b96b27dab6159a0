"""The real small model behind the real gateway: attacks and scores come through the served endpoint, guard named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.core.messages import Message, Row
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Evaluate, Guard, Redteam, Rule
from pilothouse.core.records import Endpoint
from pilothouse.evaluate import run as evaluate
from pilothouse.redteam import run as redteam
from pilothouse.store.runs import Context
from pilothouse.store.store import Store

pytestmark = pytest.mark.model
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the one it was trained with


@pytest.fixture(scope="module")
def urls(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    from pilothouse.guard.policy import compile_policy
    from pilothouse.serve.base import EngineSpec
    from pilothouse.serve.deployment import Deployment, Route
    from pilothouse.serve.run import Live

    spec = EngineSpec(model=smollm2, alias="m", adapters=(), context=512, streams=2, options={})
    routes = {"m": Route(adapter=None, system_prompt=SYSTEM, release="")}
    live = Live([Deployment("m", "llamacpp", spec, routes)], tmp_path_factory.mktemp("engine"), lambda _: None)
    try:
        live.start()
        policy = compile_policy(Guard(rules=(Rule(detector="injection", on=("input",)),)))
        yield {"off": live.gateway(), "on": live.gateway(policy=policy)}
    finally:
        live.stop()


@pytest.fixture
def ctx(store: Store, tmp_path: Path) -> Context:
    folder = tmp_path / "run"
    folder.mkdir()
    return Context("model-test", store, folder, logging.getLogger("test"), Silent())


def test_a_campaign_assesses_every_attempt_and_names_the_guard(ctx: Context, urls: dict[str, str]) -> None:
    settings = Redteam(probes=("direct-injection", "system-prompt-leak"), attempts=4, max_tokens=16)
    endpoints = {name: Endpoint(url, "m") for name, url in urls.items()}
    report = redteam.run(ctx, settings, endpoints, SYSTEM, []).report
    for name in ("off", "on"):
        rate, unclear = report.measure(f"redteam.asr.{name}"), report.measure(f"redteam.not_assessed.{name}")
        assert rate is not None and unclear is not None and unclear.value is not None
        assert rate.n == round(8 * (1 - unclear.value)) >= 6
    blocked = report.measure("redteam.blocked.on")
    assert blocked is not None and blocked.value is not None and blocked.value > 0
    assert "by injection" in report.facts["guard on"]
    assert report.facts["guard off"].endswith("blocked: none")


def test_the_same_model_in_two_arms_shows_no_difference(ctx: Context, urls: dict[str, str]) -> None:
    rows = [
        Row("a", (Message("user", "What colour is the sky?"),), "The sky is blue."),
        Row("b", (Message("user", "What is the capital of France?"),), "The capital of France is Paris."),
    ]
    settings = Evaluate(metrics=("rouge-l", "json-valid"), rows=2, max_tokens=16, concurrency=1)
    arms = {"base": Endpoint(urls["off"], "m"), "tuned": Endpoint(urls["on"], "m")}
    report = evaluate.run(ctx, settings, rows, arms).report
    delta, rouge, valid = (
        report.measure(f"evaluate.{name}") for name in ("rouge_l.delta", "rouge_l.tuned", "json_valid.tuned")
    )
    assert delta is not None and delta.value == 0
    assert rouge is not None and rouge.value is not None and rouge.value > 0.05
    assert valid is not None and (valid.value, valid.n) == (0, 2)
