"""A row's tokens: what is read, what is learnt, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.core.messages import Message, Row
from pilothouse.tune.rows import encode, end_of_turn, prompt_text, rendered
from tests.tune.tiny import SYSTEM

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)


def row(question: str, answer: str) -> Row:
    return Row("x", (Message("user", question),), answer)


def test_the_answer_and_the_end_of_turn_are_learnt_and_nothing_else(tokenizer: Any) -> None:
    (one,) = encode(tokenizer, [row("What colour is sky?", '{"colour":"blue"}')], SYSTEM, max_tokens=256)
    read, learnt = rendered(tokenizer, one)
    assert learnt == '{"colour":"blue"}<|im_end|>'
    assert read == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nWhat colour is sky?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert one.ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id  # learnt, though it is the padding id


@given(question=TEXT, answer=TEXT.filter(lambda t: bool(t.strip())))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_keeps_its_bytes_and_its_border(tokenizer: Any, question: str, answer: str) -> None:
    (one,) = encode(tokenizer, [row(question, answer)], SYSTEM, max_tokens=4096)
    ending = len(end_of_turn(tokenizer))
    assert tokenizer.decode(one.ids[one.start : -ending]) == answer
    assert tokenizer.decode(one.ids[: one.start]) == prompt_text(tokenizer, row(question, answer).messages, SYSTEM)


def test_a_row_with_its_own_system_message_keeps_it(tokenizer: Any) -> None:
    own = Row("x", (Message("system", "Mine."), Message("user", "sky?")), "blue")
    (one,) = encode(tokenizer, [own], SYSTEM, max_tokens=256)
    assert SYSTEM not in rendered(tokenizer, one)[0]
    assert "Mine." in rendered(tokenizer, one)[0]


def test_a_row_too_long_is_named_with_its_length(tokenizer: Any) -> None:
    rows = [row("short", "blue"), Row("long-one", (Message("user", "sky " * 60),), "blue")]
    with pytest.raises(
        UserError, match=r"row long-one: the row is (\d+) tokens long, more than tune.max_tokens 64"
    ) as e:
        encode(tokenizer, rows, "", max_tokens=64)
    needed = int(e.value.fix.split("to ")[1].split(",")[0])
    assert encode(tokenizer, rows, "", max_tokens=needed)
    with pytest.raises(UserError):
        encode(tokenizer, rows, "", max_tokens=needed - 1)


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_a_row_without_an_answer_is_an_error(tokenizer: Any, answer: str) -> None:
    with pytest.raises(UserError, match="row x: the row has no answer to learn"):
        encode(tokenizer, [row("sky?", answer)], SYSTEM, max_tokens=256)


def test_a_template_that_never_ends_an_answer_is_refused(tokenizer: Any) -> None:
    before = tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    try:
        with pytest.raises(UserError, match="ends an answer with no special token"):
            encode(tokenizer, [row("sky?", "blue")], "", max_tokens=256)
    finally:
        tokenizer.chat_template = before
