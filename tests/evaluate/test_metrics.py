"""Each metric against published or hand-made values, and against an independent implementation."""

from __future__ import annotations

import json
import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core import registry
from pilothouse.core.messages import Message, Row
from pilothouse.evaluate.task_json import first_object, whole_object

TEXT = st.text(max_size=80)
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "Mat.", "dog"]), max_size=12).map(" ".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def row(answer: str) -> Row:
    return Row("r", (Message("user", "q"),), answer)


def value(metric: str, reference: str, output: str) -> float | None:
    return registry.create("metrics", metric).score(row(reference), output).value


def slots(**pairs: object) -> str:
    return json.dumps({"intent": "x", "slots": pairs})


def test_every_metric_of_the_folder_keeps_the_contract() -> None:
    found = registry.modules("metrics")
    assert set(found) >= {"json-valid", "intent-match", "slot-f1", "exact-match", "token-f1", "rouge-l"}
    for name in found:
        metric = registry.create("metrics", name)
        assert metric.name == name
        assert metric.direction == "higher"
        assert metric.range[0] < metric.range[1]
        assert metric.source and metric.label
        assert registry.module("metrics", name).__doc__


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"intent": "a"}', 1.0),
        (' \n{"intent": "a"}\n', 1.0),
        ('Sure! {"intent": "a"}', 0.0),
        ('```json\n{"intent": "a"}\n```', 0.0),
        ('{"intent": "a"} {"intent": "b"}', 0.0),
        ("[1, 2]", 0.0),
        ('"text"', 0.0),
        ("{'intent': 'a'}", 0.0),
        ('{"a": NaN}', 0.0),
        ('{"a": 1,}', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
        ('{"n": ' + "1" * 5000 + "}", 0.0),
    ],
)
def test_valid_json_is_strict_about_the_whole_answer(output: str, expected: float) -> None:
    assert value("json-valid", "{}", output) == expected


@given(st.dictionaries(TEXT, JSON, max_size=4), st.text(alphabet=st.characters(exclude_characters="{"), max_size=40))
def test_the_first_object_is_found_whatever_stands_before_it(obj: dict[str, object], before: str) -> None:
    text = json.dumps(obj)
    assert whole_object(text) == obj
    assert first_object(f"{before}{text} and more }} {{") == obj


@given(st.text(alphabet='{}[]":, a1', max_size=200))
def test_reading_json_never_raises(text: str) -> None:
    whole, first = whole_object(text), first_object(text)
    if whole is not None:
        assert first == whole


def test_a_broken_object_does_not_hide_a_later_one() -> None:
    assert first_object('{oops {"intent": "b"}') == {"intent": "b"}
    assert first_object("{" * 50_000) is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"intent": "refund"}', 1.0),
        ('The answer: {"intent": "refund", "slots": {}} bye', 1.0),
        ('{"intent": "Refund"}', 0.0),
        ('{"intent": null}', 0.0),
        ('{"slots": {}}', 0.0),
        ('{"intent": "other"} {"intent": "refund"}', 0.0),
        ("refund", 0.0),
    ],
)
def test_intent_is_read_from_the_first_object_and_compared_exactly(output: str, expected: float) -> None:
    assert value("intent-match", '{"intent": "refund", "slots": {}}', output) == expected


def test_a_reference_without_intent_or_slots_is_not_scored() -> None:
    assert value("intent-match", "plain text", '{"intent": "x"}') is None
    assert value("slot-f1", '{"intent": "x"}', '{"slots": {}}') is None


@pytest.mark.parametrize(
    ("wanted", "given_", "expected"),
    [
        (slots(city="Cork", date="May 3"), slots(city="Cork", date="May 3"), 1.0),
        (slots(city="Cork", date="May 3"), slots(city="Cork"), 2 / 3),  # P 1, R 1/2
        (slots(city="Cork"), slots(city="Cork", date="May 3", ref="A1"), 0.5),  # P 1/3, R 1
        (slots(city="Cork"), slots(city="Riga"), 0.0),
        (slots(city="Cork"), slots(town="Cork"), 0.0),
        (slots(city="Cork"), slots(city="  cork "), 1.0),
        (slots(bags=2), slots(bags="2"), 1.0),
        (slots(who=["Ann", "Bo"]), slots(who=["Bo", "Ann"]), 1.0),
        (slots(who=["Ann", "Ann"]), slots(who=["Ann"]), 2 / 3),
        (slots(city=None), slots(), 1.0),
        (slots(), slots(), 1.0),
        (slots(), slots(city="Cork"), 0.0),
        (slots(), "no json at all", 0.0),
        (slots(city="Cork"), '{"intent": "x", "slots": "Cork"}', 0.0),
    ],
)
def test_slot_f1_by_hand(wanted: str, given_: str, expected: float) -> None:
    assert value("slot-f1", wanted, given_) == pytest.approx(expected)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y", "z"])),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y", "z"])),
)
def test_slot_f1_equals_the_harmonic_mean_of_set_precision_and_recall(a: dict[str, str], b: dict[str, str]) -> None:
    hits = len(a.items() & b.items())
    if not a and not b:
        expected = 1.0
    elif hits == 0:
        expected = 0.0
    else:
        precision, recall = hits / len(b), hits / len(a)
        expected = 2 * precision * recall / (precision + recall)
    assert value("slot-f1", slots(**a), slots(**b)) == pytest.approx(expected)


# The official SQuAD script (evaluate-v2.0.py), kept as published, as the reference.


def squad_normalize(s: str) -> str:
    def remove_articles(text: str) -> str:
        return re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)

    def remove_punc(text: str) -> str:
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return " ".join(remove_articles(remove_punc(s.lower())).split())


def squad_f1(gold: str, pred: str) -> float:
    gold_toks, pred_toks = squad_normalize(gold).split(), squad_normalize(pred).split()
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return float(gold_toks == pred_toks)
    num_same = sum((Counter(gold_toks) & Counter(pred_toks)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


@given(WORDS | TEXT, WORDS | TEXT)
def test_token_f1_and_exact_match_equal_the_official_script(gold: str, predicted: str) -> None:
    assert value("token-f1", gold, predicted) == pytest.approx(squad_f1(gold, predicted))
    assert value("exact-match", gold, predicted) == float(squad_normalize(gold) == squad_normalize(predicted))


@pytest.mark.parametrize(
    ("gold", "predicted", "em", "f1"),
    [
        ("Denver Broncos", "The Denver Broncos.", 1.0, 1.0),
        ("Santa Clara, California", "Levi's Stadium in Santa Clara, California", 0.0, 2 * 0.5 * 1 / 1.5),
        ("Saint Bernadette Soubirous", "Bernadette", 0.0, 0.5),
    ],
)
def test_squad_examples_by_hand(gold: str, predicted: str, em: float, f1: float) -> None:
    assert value("exact-match", gold, predicted) == em
    assert value("token-f1", gold, predicted) == pytest.approx(f1)


def lcs(a: list[str], b: list[str]) -> int:
    previous = [0] * (len(b) + 1)
    for x in a:
        current = [0]
        for j, y in enumerate(b):
            current.append(previous[j] + 1 if x == y else max(previous[j + 1], current[j]))
        previous = current
    return previous[-1]


@given(WORDS, WORDS)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(gold: str, predicted: str) -> None:
    a, b = re.findall(r"[a-z0-9]+", gold.lower()), re.findall(r"[a-z0-9]+", predicted.lower())
    common = lcs(a, b)
    expected = 2 * common / (len(a) + len(b)) if common else 0.0
    assert value("rouge-l", gold, predicted) == pytest.approx(expected)


@given(st.text(alphabet=string.printable, max_size=60), st.text(alphabet=string.printable, max_size=60))
def test_rouge_l_equals_the_library_with_its_own_tokenizer_on_ascii(gold: str, predicted: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    assert value("rouge-l", gold, predicted) == RougeScorer(["rougeL"]).score(gold, predicted)["rougeL"].fmeasure


def test_rouge_l_on_lins_example_and_on_words_with_accents() -> None:
    # Lin 2004 §3.1: "police killed the gunman" against "police kill the gunman" is 3/4, "the gunman kill police" 2/4.
    assert value("rouge-l", "police killed the gunman", "police kill the gunman") == 0.75
    assert value("rouge-l", "police killed the gunman", "the gunman kill police") == 0.5
    assert value("rouge-l", "avión", "avi n") == 0.0
    assert value("rouge-l", "El avión llegó", "el avión salió") == pytest.approx(2 / 3)
