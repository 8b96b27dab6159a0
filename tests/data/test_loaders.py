"""Loaders: what they accept comes back whole; what they refuse is named by file, line and field."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.data.base import Loaded, Reject, Source
from pilothouse.data.read import loader, read

# JSON and UTF-8 carry every code point but lone surrogates.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda t: t.strip() != "")
label = st.text("abc-1", max_size=5)


def load(name: str, content: bytes, tmp: Path, **options: object) -> list[Loaded | Reject]:
    """All that a loader yields for these bytes."""
    path = tmp / "train.file"
    path.write_bytes(content)
    return list(registry.create("loaders", name, **options).rows(Source(path, "train.jsonl")))


def only(name: str, record: object, tmp: Path) -> Loaded | Reject:
    """What one JSON record becomes."""
    (item,) = load(name, json.dumps(record).encode() + b"\n", tmp)
    return item


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    """A chat record."""
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.one_of(st.none(), words), label, label)
def test_chat_rows_come_back_whole(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], system: str | None, id: str, group: str
) -> None:
    turns = [("system", system)] if system else []
    for question, answer in pairs:
        turns += [("user", question), ("assistant", answer)]
    record = chat(*turns) | {"id": id, "group": group, "tags": ["a", "b"]}
    item = only("jsonl-chat", record, tmp_path_factory.mktemp("chat"))
    assert isinstance(item, Loaded) and item.line == 1
    row = item.row
    assert [(m.role, m.content) for m in row.messages] + [("assistant", row.answer)] == turns
    assert (row.group, row.tags) == (group, ("a", "b"))
    assert row.id == id or (id == "" and len(row.id) == 16)


@given(words, st.one_of(st.just(""), words), words)
def test_alpaca_rows_come_back_whole(
    tmp_path_factory: pytest.TempPathFactory, instruction: str, given_: str, output: str
) -> None:
    record = {"instruction": instruction, "input": given_, "output": output}
    item = only("alpaca", record, tmp_path_factory.mktemp("alpaca"))
    assert isinstance(item, Loaded)
    assert item.row.question == (f"{instruction}\n\n{given_}" if given_ else instruction)
    assert item.row.answer == output


@given(words, words)
def test_sharegpt_rows_come_back_whole(tmp_path_factory: pytest.TempPathFactory, question: str, answer: str) -> None:
    record = {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    item = only("sharegpt", record, tmp_path_factory.mktemp("sharegpt"))
    assert isinstance(item, Loaded)
    assert (item.row.question, item.row.answer) == (question, answer)


# Python's csv module reads \r inside a quoted cell back as it stands only when lines are split at \n, as ours are;
# NUL is refused by some of its versions.
cells = words.filter(lambda t: not set(t) & set("\r\0"))


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_csv_rows_come_back_whole_and_know_their_first_line(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]]
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer"), *records])
    items = load("csv-rows", out.getvalue().encode(), tmp_path_factory.mktemp("csv"))
    assert [(i.row.question, i.row.answer) for i in items if isinstance(i, Loaded)] == records
    line = 2
    for item, record in zip(items, records, strict=True):
        assert isinstance(item, Loaded) and item.line == line
        line += 1 + sum(cell.count("\n") for cell in record)


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ({}, "messages", "missing field"),
        ({"messages": "hi"}, "messages", "not a list"),
        (chat(), "messages", "no messages"),
        (chat(("user", "hi")), "messages[0]", "missing answer"),
        (chat(("system", "s"), ("user", "hi")), "messages[1]", "missing answer"),
        (chat(("user", " "), ("assistant", "a")), "messages[0].content", "empty message"),
        (chat(("user", "hi"), ("assistant", "\n")), "messages[1].content", "empty answer"),
        (chat(("user", None), ("assistant", "a")), "messages[0].content", "missing field"),
        (chat(("user", 3), ("assistant", "a")), "messages[0].content", "not a string"),
        (chat(("robot", "hi"), ("assistant", "a")), "messages[0].role", "unknown role"),
        (chat(("assistant", "hi"), ("assistant", "a")), "messages[0].role", "wrong role order"),
        (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "messages[1].role", "wrong role order"),
        (chat(("user", "q"), ("user", "q"), ("assistant", "a")), "messages[1].role", "wrong role order"),
        (chat(("user", "q"), ("assistant", "a")) | {"tags": "x"}, "tags", "not a list of strings"),
        (chat(("user", "q"), ("assistant", "a")) | {"id": 1.5}, "id", "not a string"),
    ],
)
def test_a_faulty_chat_row_is_a_reject_that_names_its_field(
    tmp_path: Path, record: object, field: str, reason: str
) -> None:
    item = only("jsonl-chat", record, tmp_path)
    assert isinstance(item, Reject)
    assert (item.file, item.line, item.field, item.reason) == ("train.jsonl", 1, field, reason)


@pytest.mark.parametrize(
    ("name", "record", "field", "reason"),
    [
        ("alpaca", {"instruction": "q"}, "output", "missing field"),
        ("alpaca", {"instruction": "q", "output": " "}, "output", "empty answer"),
        ("alpaca", {"instruction": "", "output": "a"}, "instruction", "empty message"),
        ("sharegpt", {"conversations": [{"from": "bot", "value": "x"}]}, "conversations[0].from", "unknown role"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "conversations[0]", "missing answer"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "conversations[0].value", "missing field"),
    ],
)
def test_other_formats_name_the_field_too(tmp_path: Path, name: str, record: object, field: str, reason: str) -> None:
    item = only(name, record, tmp_path)
    assert isinstance(item, Reject)
    assert (item.field, item.reason) == (field, reason)


GOOD = json.dumps(chat(("user", "q"), ("assistant", "a"))).encode()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"messages": [', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "a list where an object was due"),
        (b'{"messages": "\xe9"}', "not UTF-8 text (byte 15 of the line)"),
    ],
)
def test_a_broken_file_is_an_error_at_once_that_names_the_line(tmp_path: Path, bad: bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load("jsonl-chat", b"\n".join([GOOD] * 16 + [bad, GOOD]), tmp_path)
    assert caught.value.line().startswith(f"train.jsonl:17: {says}")


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    items = load("jsonl-chat", b"\xef\xbb\xbf" + GOOD + b"\n\n  \n" + GOOD, tmp_path)
    assert [i.line for i in items if isinstance(i, Loaded)] == [1, 4]


def test_csv_faults_name_the_line_that_the_record_begins_on(tmp_path: Path) -> None:
    content = b'question,answer\n"two\nlines",fine\n"empty\nanswer",\nonly one cell\n'
    items = load("csv-rows", content, tmp_path)
    rejects = [(i.line, i.field, i.reason) for i in items if isinstance(i, Reject)]
    assert rejects == [(4, "answer", "empty answer"), (6, "", "wrong number of cells")]


def test_csv_without_the_named_column_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.jsonl:1: there is no column 'reply'. The columns are question, answer"):
        load("csv-rows", b"question,answer\nq,a\n", tmp_path, answer="reply")


def test_csv_with_an_open_quote_is_an_error_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.jsonl:3: not valid CSV"):
        load("csv-rows", b'question,answer\nq,a\nq,"open\n', tmp_path)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data.format: .*'jsonl-chats'.*Did you mean 'jsonl-chat'"):
        loader("jsonl-chats", {})


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"csv-rows has no option 'anser'. It takes question, answer"):
        loader("csv-rows", {"anser": "a"})
    with pytest.raises(UserError, match="It takes none"):
        loader("alpaca", {"x": 1})


def rows_with_faults(tmp: Path, good: int, bad: int) -> Source:
    """A file of good rows whose last rows lack their answers."""
    path = tmp / "rows.jsonl"
    records = [chat(("user", f"q{i}"), ("assistant", "a")) for i in range(good)]
    records += [chat(("user", f"q{i}")) for i in range(bad)]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return Source(path, "rows.jsonl")


def test_one_percent_of_rejects_is_borne_and_more_is_not(tmp_path: Path) -> None:
    got = read(rows_with_faults(tmp_path, 99, 1), loader("jsonl-chat", {}), Silent())
    assert (len(got.rows), [r.line for r in got.rejects]) == (99, [100])
    with pytest.raises(UserError, match=r"rows.jsonl:99: messages\[0\]: missing answer .*2 of 100 rows are unusable"):
        read(rows_with_faults(tmp_path, 98, 2), loader("jsonl-chat", {}), Silent())


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl: the file has no rows"):
        read(rows_with_faults(tmp_path, 0, 0), loader("jsonl-chat", {}), Silent())


def test_one_id_for_two_different_rows_is_a_reject_and_for_the_same_row_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    one, two = ({"id": "7", **chat(("user", q), ("assistant", "a"))} for q in ("x", "y"))
    filler = [chat(("user", f"q{i}"), ("assistant", "a")) for i in range(120)]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*filler, one, one, two]))
    got = read(Source(path, "rows.jsonl"), loader("jsonl-chat", {}), Silent())
    assert len(got.rows) == 122
    assert [(r.line, r.reason) for r in got.rejects] == [(123, "id used twice")]
