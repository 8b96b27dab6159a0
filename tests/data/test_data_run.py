"""The data stage whole: files in, one dataset asset out, every lost row accounted for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import msgspec
import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.core.project.schema import Data
from pilothouse.core.records import Asset, Outcome
from pilothouse.data.run import run
from pilothouse.store import rows, runs
from pilothouse.store.store import Store

PROMPT = "Be the desk."


def record(question: str, answer: str = "a", **more: object) -> dict[str, object]:
    """A chat record."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def write(path: Path, records: list[dict[str, object]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def stage(store: Store, tmp: Path, **settings: object) -> tuple[Outcome, Asset]:
    """Run the stage over the folder `tmp`."""
    folder = store.root / "runs" / "x"
    folder.mkdir(parents=True, exist_ok=True)
    ctx = runs.Context("x", store, folder, logging.getLogger("test"), Silent())
    outcome = run(ctx, Data.model_validate(settings), tmp, PROMPT)
    return outcome, outcome.outputs["dataset"]


def value(outcome: Outcome, name: str) -> float | None:
    """A measure's value."""
    measure = outcome.report.measure(name)
    assert measure is not None
    return measure.value


def test_every_row_is_kept_or_accounted_for(store: Store, tmp_path: Path) -> None:
    long = "my big blue suitcase did not arrive with the flight from Oslo to Vienna"
    train = [record(f"question number {i}", tags=["even" if i % 2 == 0 else "odd"]) for i in range(200)]
    train += [record("question number 3", tags=["odd"]), record("Question NUMBER 3!", tags=["odd"])]
    train += [record("held out one"), record(f"Hello, {long} today")]
    train.append({"messages": [{"role": "user", "content": "no answer"}]})
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "dev.jsonl", [record("Held out ONE?"), record("in test too"), record("dev only")])
    write(tmp_path / "test.jsonl", [record("in test too"), record(long)])
    outcome, dataset = stage(store, tmp_path, train="train.jsonl", dev="dev.jsonl", test="test.jsonl", canaries=3)
    splits = {name: rows.read(store, dataset, name) for name in ("train", "dev", "test")}
    plain = [r for r in splits["train"] if r.tags != ("canary",)]
    assert {n: len(r) for n, r in splits.items()} == {"train": 206, "dev": 2, "test": 2}
    assert len(plain) == 200 == value(outcome, "data.rows_train")
    assert not {r.question for r in plain} & {"held out one", f"Hello, {long} today"}
    assert [r.question for r in splits["dev"]] == ["Held out ONE?", "dev only"]
    assert value(outcome, "data.rejects") == 1 / 210
    assert value(outcome, "data.duplicates") == 2 / 209
    assert value(outcome, "data.contamination") == 2 / 202
    (reject,) = store.read(dataset, "rejects.jsonl").splitlines()
    assert json.loads(reject) == {
        "file": "train.jsonl",
        "line": 205,
        "field": "messages[0]",
        "reason": "missing answer",
        "detail": "the last message is the user's",
    }
    canaries = json.loads(store.read(dataset, "canaries.json"))
    assert [set(c) for c in canaries] == [{"id", "prompt", "secret", "references"}] * 3
    assert len({r.id for mine in splits.values() for r in mine}) == 210
    table = next(t for t in outcome.report.tables if t.title == "Rows by tag")
    assert ["even", 100, 0, 0] in table.rows
    assert [p.kind for p in outcome.report.plots] == ["ecdf", "bar"]
    assert all(s.y for p in outcome.report.plots for s in p.series)
    msgspec.json.encode(outcome.report)


def test_the_same_files_give_the_same_asset_and_another_seed_another(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "all.jsonl", [record(f"q{i}") for i in range(100)])
    first, again = (stage(store, tmp_path, train="all.jsonl")[1] for _ in range(2))
    assert first.digest == again.digest
    assert stage(store, tmp_path, train="all.jsonl", seed=8)[1].digest != first.digest
    assert first.meta["rows"] == {"train": 74, "dev": 15, "test": 15}


def test_only_the_missing_split_is_cut(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [record(f"q{i}") for i in range(85)])
    write(tmp_path / "dev.jsonl", [record("dev one"), record("dev two")])
    _, dataset = stage(store, tmp_path, train="train.jsonl", dev="dev.jsonl", canaries=0)
    assert dataset.meta["rows"] == {"train": 70, "dev": 2, "test": 15}


def test_files_that_count_their_rows_from_nought_keep_their_ids_apart(store: Store, tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.jsonl", [record(f"{name} {i}", id=i) for i in range(3)])
    _, dataset = stage(store, tmp_path, train="train.jsonl", dev="dev.jsonl", test="test.jsonl", canaries=0)
    ids = [r.id for name in ("train", "dev", "test") for r in rows.read(store, dataset, name)]
    assert ids == ["0", "1", "2", "dev/0", "dev/1", "dev/2", "test/0", "test/1", "test/2"]


def test_personal_data_are_replaced_and_counted_only_when_asked(store: Store, tmp_path: Path) -> None:
    records = [record(f"q{i}") for i in range(30)] + [record("I am x@y.example.com", "x@y.example.com")]
    write(tmp_path / "all.jsonl", records)
    outcome, dataset = stage(store, tmp_path, train="all.jsonl", scrub_pii=True)
    assert value(outcome, "data.pii") == 1 / 31
    assert outcome.report.facts["personal data replaced"] == "2 × email"
    assert not any(b"y.example.com" in store.read(dataset, file.path) for file in dataset.files)
    outcome, dataset = stage(store, tmp_path, train="all.jsonl")
    assert value(outcome, "data.pii") is None
    assert any(b"y.example.com" in store.read(dataset, file.path) for file in dataset.files)


def test_the_projects_own_prompt_is_taken_off_rows_and_another_stays(store: Store, tmp_path: Path) -> None:
    def with_system(text: str, question: str) -> dict[str, object]:
        made = record(question)
        assert isinstance(made["messages"], list)
        return made | {"messages": [{"role": "system", "content": text}, *made["messages"]]}

    write(tmp_path / "train.jsonl", [with_system(PROMPT + "\n", "one"), with_system("Be curt.", "two")])
    write(tmp_path / "held.jsonl", [record("three")])
    write(tmp_path / "test.jsonl", [record("four")])
    outcome, dataset = stage(store, tmp_path, train="train.jsonl", dev="held.jsonl", test="test.jsonl", canaries=0)
    got = [[m.role for m in r.messages] for r in rows.read(store, dataset, "train")]
    assert got == [["user"], ["system", "user"]]
    assert outcome.report.facts["own system message"] == "1 rows, kept"


def test_a_missing_file_names_the_setting(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train: no such file: 'nowhere\.jsonl'"):
        stage(store, tmp_path, train="nowhere.jsonl")
    with pytest.raises(UserError, match=r"data\.train: is a folder"):
        stage(store, tmp_path, train=".")
    with pytest.raises(UserError, match=r"'file:a\.jsonl' is a local file. Write it as a plain path: a\.jsonl"):
        stage(store, tmp_path, train="file:a.jsonl")


def test_nothing_is_kept_of_a_stage_that_fails(store: Store, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"messages": 1}\n')
    with pytest.raises(UserError, match=r"train\.jsonl:1: messages: not a list"):
        stage(store, tmp_path, train="train.jsonl")
    assert store.assets("dataset") == []


def test_splits_that_repeat_each_other_are_an_error(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "same.jsonl", [record("one"), record("two")])
    write(tmp_path / "test.jsonl", [record("three")])
    with pytest.raises(UserError, match=r"data\.train: no row is left in train"):
        stage(store, tmp_path, train="same.jsonl", dev="same.jsonl", test="test.jsonl")
