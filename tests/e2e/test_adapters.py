"""One engine, base and adapter: what one has cached must not answer for the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilothouse.core import client
from pilothouse.core.records import Endpoint
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.deployment import Deployment, Route
from pilothouse.serve.run import Live
from pilothouse.store.store import Store
from tests.e2e.conftest import REPO, Shipped

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]

QUESTIONS = [
    json.loads(line)["messages"][0]["content"]
    for line in (REPO / "examples/airline/data/dev.jsonl").read_text().splitlines()[:12]
]


def test_the_base_models_cached_prompts_never_answer_for_the_adapter(shipped: Shipped, tmp_path: Path) -> None:
    # llama.cpp's prompt cache in RAM does not know adapters: with it, most answers here change (docs/decisions.md).
    store = Store.open(shipped.cwd / ".pilothouse")
    digests = json.loads(shipped.stdout)["digests"]
    model = store.folder(store.asset(digests["base"])) / "model.gguf"
    adapter = store.folder(store.asset(digests["adapter"])) / "adapter.gguf"
    store.close()
    spec = EngineSpec(model, "m", (("tuned", adapter),), context=512, streams=4)
    system = (REPO / "examples/airline/prompts/desk.txt").read_text().strip()
    routes = {"tuned": Route("tuned", system), "base": Route(None, system)}

    def logprobs(url: str, name: str) -> list[list[float]]:
        jobs = [client.Job([{"role": "user", "content": q}], 12, {"logprobs": True}) for q in QUESTIONS]
        answers = client.run(client.chat_many(Endpoint(url, name), jobs, concurrency=4))
        assert not any(a.error for a in answers)
        return [[t.logprob for t in a.tokens] for a in answers]

    live = Live([Deployment("m", "llamacpp", spec, routes)], tmp_path / "alone", lambda _: None).start()
    try:
        alone = logprobs(live.gateway(), "tuned")
    finally:
        live.stop()
    live = Live([Deployment("m", "llamacpp", spec, routes)], tmp_path / "mixed", lambda _: None).start()
    try:
        url = live.gateway()
        assert logprobs(url, "base") != alone
        mixed = logprobs(url, "tuned")
    finally:
        live.stop()
    gaps = [abs(a[0] - b[0]) for a, b in zip(alone, mixed, strict=True)]  # the first token sees only the prompt
    assert max(gaps) < 0.1, gaps
