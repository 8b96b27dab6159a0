"""The FAQ example: a public set through the package index, nothing of it committed, its licence stated."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest

from pilothouse.core.progress import Silent
from pilothouse.core.project import load_project
from pilothouse.data.base import Source
from pilothouse.data.read import loader, read
from pilothouse.data.run import run
from pilothouse.store import rows, runs
from pilothouse.store.store import Store

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "faq"


def test_the_project_pins_the_package_and_states_licence_and_author() -> None:
    project = load_project(FOLDER)
    assert project.use.task == "qa"
    assert project.data.train.startswith("pypi:zaragoza-construction-faq==1.2.1#")
    assert project.data.licence == "CC-BY-4.0"
    assert project.evaluate.metrics == ("rouge-l", "token-f1")
    assert "Zaragoza AB" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not [p for p in FOLDER.rglob("*") if p.suffix in (".csv", ".json", ".jsonl", ".whl")]


def test_the_projects_loader_reads_records_of_the_sets_shape(tmp_path: Path) -> None:
    data = load_project(FOLDER).data
    path = tmp_path / "faq.csv"
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "category", "q", "a", "sources"])
        writer.writerow(["roof-1", "roof", "What, roughly, is a roof?", 'The "lid" of a house.', "none"])
    (row,) = read(Source(path, "faq.csv"), loader(data.format, data.options), Silent()).rows
    assert (row.id, row.tags, row.group) == ("roof-1", ("roof",), "")
    assert (row.question, row.answer) == ("What, roughly, is a roof?", 'The "lid" of a house.')


@pytest.mark.model
def test_the_real_set_makes_a_dataset_and_its_repeated_questions_leave_train(store: Store) -> None:
    project = load_project(FOLDER)
    folder = store.root / "runs" / "faq"
    folder.mkdir(parents=True)
    ctx = runs.Context("faq", store, folder, logging.getLogger("faq"), Silent())
    outcome = run(ctx, project.data, project.folder, project.system_prompt)
    dataset = outcome.outputs["dataset"]
    questions = {name: {r.question for r in rows.read(store, dataset, name)} for name in ("train", "dev", "test")}
    assert dataset.meta["rows"] == {"train": 350 + 4, "dev": 76, "test": 75}
    assert not questions["train"] & (questions["dev"] | questions["test"])
    assert outcome.report.facts["licence"] == "CC-BY-4.0"
    contamination = outcome.report.measure("data.contamination")
    assert contamination is not None and contamination.value == 2 / 352
    # Again from the folder of the interrupted run: the download is there, and the asset is the same.
    assert run(ctx, project.data, project.folder, project.system_prompt).outputs["dataset"].digest == dataset.digest
