"""The airline example: made again byte for byte, slots verbatim, test phrasings new to training."""

from __future__ import annotations

import difflib
import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core import registry
from pilothouse.core.messages import Row
from pilothouse.core.progress import Silent
from pilothouse.core.project import load_project
from pilothouse.data import contamination
from pilothouse.data.base import Source
from pilothouse.data.clean import deduplicate, normalise
from pilothouse.data.read import loader, read
from pilothouse.data.scrub import scrub_row

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "airline"
SPLITS = ("train", "dev", "test")
MAKER: dict[str, Any] = runpy.run_path(str(FOLDER / "generate.py"))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    """The rows that are committed."""
    made = {}
    for name in SPLITS:
        got = read(Source(FOLDER / "data" / f"{name}.jsonl", name), loader("jsonl-chat", {}), Silent())
        assert got.rejects == []
        made[name] = got.rows
    return made


def phrasings(split: str) -> Iterator[str]:
    """The phrasings of a split."""
    return (p.text for p in MAKER["phrasings"](FOLDER / "phrasings.txt") if p.split == split)


def test_generation_gives_the_committed_bytes(tmp_path: Path) -> None:
    # Another hash seed, no site packages: nothing but the seed and the standard library decides.
    argv = [sys.executable, "-I", "-S", str(FOLDER / "generate.py"), str(tmp_path)]
    subprocess.run(argv, check=True, capture_output=True, cwd=tmp_path)
    for name in SPLITS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (FOLDER / "data" / f"{name}.jsonl").read_bytes()


def test_there_are_enough_rows_and_intents_are_balanced(splits: dict[str, list[Row]]) -> None:
    least = {"train": 1200, "dev": 300, "test": 300}
    for name, rows in splits.items():
        assert len(rows) >= least[name]
        counts = Counter(row.tags[0] for row in rows)
        assert len(counts) == 12 and len(set(counts.values())) == 1


def test_answers_are_compact_json_with_slots_copied_from_the_message(splits: dict[str, list[Row]]) -> None:
    order = list(MAKER["SLOTS"])
    for row in (row for rows in splits.values() for row in rows):
        answer = json.loads(row.answer)
        assert list(answer) == ["intent", "slots"]
        assert (answer["intent"],) == row.tags
        assert row.group.startswith(f"{answer['intent']}.")
        assert all(value in row.question for value in answer["slots"].values()), row
        assert list(answer["slots"]) == sorted(answer["slots"], key=order.index)
        assert json.dumps(answer, separators=(",", ":"), ensure_ascii=False) == row.answer


def test_rows_are_short_enough_for_a_small_model(splits: dict[str, list[Row]]) -> None:
    for row in (row for rows in splits.values() for row in rows):
        assert 3 <= len(row.question.split()) <= 40
        assert len(row.question) + len(row.answer) <= 240


def test_no_phrasing_is_in_two_splits(splits: dict[str, list[Row]]) -> None:
    groups = {name: {row.group for row in rows} for name, rows in splits.items()}
    assert not groups["train"] & groups["dev"]
    assert not (groups["train"] | groups["dev"]) & groups["test"]
    texts = [normalise(text) for split in SPLITS for text in phrasings(split)]
    assert len(texts) == len(set(texts)) == 300


@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_held_out_phrasing_occurs_in_a_training_message(splits: dict[str, list[Row]], split: str) -> None:
    train = [normalise(row.question) for row in splits["train"]]
    blank = "slotvalue"
    for text in phrasings(split):
        words = re.escape(normalise(re.sub(r"\{\w+\}", blank, text)))
        pattern = re.compile(words.replace(blank, ".+?"))
        assert not [message for message in train if pattern.search(message)], text


def test_held_out_phrasings_are_not_training_phrasings_with_a_word_changed() -> None:
    train = [normalise(text) for text in phrasings("train")]
    for text in phrasings("test"):
        nearest = max(train, key=lambda t: difflib.SequenceMatcher(None, t, normalise(text)).ratio())
        assert difflib.SequenceMatcher(None, nearest, normalise(text)).ratio() < 0.85, (text, nearest)


def test_no_held_out_message_is_in_train_nor_most_of_its_8_grams(splits: dict[str, list[Row]]) -> None:
    held_out = [*splits["dev"], *splits["test"]]
    questions = {normalise(row.question) for row in splits["train"]}
    assert not [row for row in held_out if normalise(row.question) in questions]
    assert contamination.find(splits["train"], held_out) == []
    assert contamination.find(splits["dev"], splits["test"]) == []


def test_cleaning_and_scrubbing_find_nothing_to_do(splits: dict[str, list[Row]]) -> None:
    for rows in splits.values():
        assert deduplicate(rows).rows == rows
        assert all(scrub_row(row)[0] is row for row in rows)


def test_messages_vary_as_customers_do(splits: dict[str, list[Row]]) -> None:
    train = [row.question for row in splits["train"]]
    lower = sum(text == text.lower() for text in train) / len(train)
    polite = sum(bool(re.match(r"(?i)(hi|hello|hey|dear|good|sorry|quick)\b", text)) for text in train) / len(train)
    assert 0.1 < lower < 0.2
    assert 0.3 < polite < 0.5


def test_held_out_rows_have_names_and_cities_that_training_lacks(splits: dict[str, list[Row]]) -> None:
    def values(rows: list[Row]) -> set[str]:
        slots = (json.loads(row.answer)["slots"] for row in rows)
        return {v.casefold() for s in slots for k, v in s.items() if k in ("city", "city_from", "city_to", "name")}

    new = values(splits["test"]) - values(splits["train"])
    assert {"turin", "gdansk", "cork", "bilbao"} <= new


def test_the_project_file_names_members_that_exist() -> None:
    project = load_project(FOLDER)
    assert project.folder == FOLDER
    assert len(project.system_prompt.split()) <= 25
    assert project.guard.handbook and (FOLDER / project.guard.handbook).is_file()
    assert project.data.format in registry.modules("loaders")
    assert {c.licence for c in project.candidates} == {"Apache-2.0"}
    assert len({gate.name for gate in project.gates}) == len(project.gates) == 9


def test_the_handbook_numbers_its_clauses_without_a_gap() -> None:
    text = (FOLDER / "handbook.md").read_text(encoding="utf-8")
    chapters = [int(n) for n in re.findall(r"^## (\d+)\. ", text, re.M)]
    assert chapters == list(range(1, len(chapters) + 1))
    clauses = [(int(a), int(b)) for a, b in re.findall(r"^(\d+)\.(\d+) ", text, re.M)]
    for chapter in chapters:
        mine = [b for a, b in clauses if a == chapter]
        assert mine == list(range(1, len(mine) + 1)) and mine
    for a, b in re.findall(r"(?:under|in|beyond) (\d+)\.(\d+)\b", text):
        assert (int(a), int(b)) in clauses
