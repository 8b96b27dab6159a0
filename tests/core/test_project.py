"""Mistakes in pilothouse.yaml are one line: file, line, key, bad value, nearest valid key."""

from pathlib import Path

import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.project import load_project

GOOD = """\
project: demo
candidates:
  - {name: small, source: "file:m.gguf"}
model: small
data:
  train: rows.jsonl
gates:
  - {name: better, measure: evaluate.x.delta, above: 0}
"""


def _load(tmp_path: Path, text: str) -> str:
    (tmp_path / "pilothouse.yaml").write_text(text)
    with pytest.raises(UserError) as e:
        load_project(tmp_path)
    line = e.value.line()
    assert "\n" not in line
    return line


def test_a_good_file_loads_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pilothouse.yaml").write_text(GOOD)
    project = load_project(tmp_path)
    assert project.candidate.source == "file:m.gguf" and project.folder == tmp_path.resolve()


def test_an_unknown_key_names_line_and_nearest_key(tmp_path: Path) -> None:
    line = _load(tmp_path, GOOD.replace("  train: rows.jsonl", "  train: rows.jsonl\n  sead: 3"))
    assert "pilothouse.yaml:7: data.sead" in line and "'seed'" in line


def test_a_bad_value_is_shown_with_its_line(tmp_path: Path) -> None:
    line = _load(tmp_path, GOOD + "tune:\n  steps: many\n")
    assert "pilothouse.yaml:10: tune.steps" in line and "'many'" in line


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "data" in _load(tmp_path, GOOD.replace("data:\n  train: rows.jsonl\n", ""))


def test_a_gate_needs_exactly_one_bound(tmp_path: Path) -> None:
    assert "exactly one" in _load(tmp_path, GOOD.replace("above: 0", "above: 0, below: 1"))


def test_the_pick_must_be_a_candidate(tmp_path: Path) -> None:
    line = _load(tmp_path, GOOD.replace("model: small", "model: big"))
    assert "'big' is not among the candidates" in line and "pilothouse.yaml:4: model" in line


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    assert "pilothouse.yaml:" in _load(tmp_path, "project: demo\n  model: [unclosed\n")


def test_binary_and_lists_and_nothing_are_refused_plainly(tmp_path: Path) -> None:
    (tmp_path / "pilothouse.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_project(tmp_path)
    assert "mapping" in _load(tmp_path, "- a\n- b\n")
    with pytest.raises(UserError, match=r"there is no pilothouse\.yaml"):
        load_project(tmp_path / "..")
    with pytest.raises(UserError, match="no such file or folder"):
        load_project(tmp_path / "absent")


def test_a_prompt_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "'system_prompt'" not in (line := _load(tmp_path, GOOD + "system_prompt: file:absent.txt\n"))
    assert "system_prompt" in line and "absent.txt" in line
