"""The older form: prompts in, texts out, both shapes of log probabilities."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from pilothouse.serve.gateway.dialects import completions
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import DECISION, ID, USAGE, answer, asked, bytes_of, events
from tests.serve.dialects.folding import fold_completions

FORM = completions.create()
LEGACY: dict[str, Any] = {
    "tokens": ["Hé", "llo"],
    "token_logprobs": [-0.5, -0.25],
    "top_logprobs": [{"Hé": -0.5, "Ho": -1.0}, {"llo": -0.25}],
    "text_offset": [0, 2],
}
CHAT_SHAPE = {
    "content": [
        {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": [
            {"token": "Hé", "logprob": -0.5}, {"token": "Ho", "logprob": -1.0}]},
        {"token": "llo", "logprob": -0.25, "bytes": [], "top_logprobs": [{"token": "llo", "logprob": -0.25}]},
    ]
}  # fmt: skip


def text(said: str, finish: str | None = "stop", index: int = 0, **choice: Any) -> dict[str, Any]:
    one = {"index": index, "text": said, "logprobs": None, "finish_reason": finish, **choice}
    return {"id": "cmpl-x", "object": "text_completion", "created": 1, "model": "engine", "choices": [one]}


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_kind_of_prompt_passes_untouched(prompt: Any) -> None:
    request = {
        "model": "desk",
        "prompt": prompt,
        "echo": True,
        "suffix": "z",
        "logprobs": 2,
        "best_of": 1,
        "min_p": 0.1,
    }
    assert FORM.request(request) is request


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_what_cannot_be_continued_is_refused_by_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as e:
        FORM.request({"model": "desk", "prompt": "a", **fields})
    assert (e.value.status, e.value.param) == (400, param)


def test_the_guard_reads_prompts_and_suffix_and_is_told_of_tokens() -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"], "suffix": "c"}
    places, unread = FORM.texts(body)
    assert [holder[key] for holder, key in places] == ["a", "b", "c"] and unread == ()
    places[1][0][places[1][1]] = "X"
    assert body["prompt"] == ["a", "X"]
    assert FORM.texts({"prompt": [1, 2]}) == ([], ("tokens",))


@pytest.mark.parametrize("shape", [LEGACY, CHAT_SHAPE], ids=["vLLM", "llama.cpp"])
def test_both_shapes_of_logprobs_come_back_as_the_older(shape: dict[str, Any]) -> None:
    lifted = FORM.lift(text("Héllo", logprobs=shape), streamed=False)
    assert lifted["choices"][0]["message"] == {"role": "assistant", "content": "Héllo"}
    assert lifted["choices"][0]["logprobs"]["content"][0]["token"] == "Hé"
    whole = FORM.whole(lifted, asked(), ID)
    Completion.model_validate(whole)
    assert whole["choices"][0]["logprobs"] == LEGACY
    assert (whole["model"], whole["object"]) == ("desk", "text_completion")


def test_offsets_go_on_through_a_stream_choice_by_choice() -> None:
    first, second = ({name: [value[i]] for name, value in LEGACY.items()} for i in range(2))
    cut = [text("Hé", None, logprobs=first), text("!", None, 1), text("llo", None, logprobs=second), text("", "length")]
    lifted = [FORM.lift(c, streamed=True) for c in cut]
    assert lifted[0]["choices"][0]["delta"] == {"content": "Hé"}
    out = events(bytes_of(FORM, lifted, asked()))
    own = [{**e, "choices": [c for c in e["choices"] if c["index"] == 0]} for e in out]
    got = fold_completions(own)
    assert (got["text"], got["finish"], got["tokens"], got["offsets"]) == ("Héllo", "length", ["Hé", "llo"], [0, 2])
    assert [c["text"] for e in out for c in e["choices"] if c["index"] == 1] == ["!"]


def test_a_token_of_an_echoed_prompt_has_no_probability() -> None:
    echoed = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
    whole = FORM.whole(FORM.lift(text("a", logprobs=echoed), streamed=False), asked(), ID)
    assert whole["choices"][0]["logprobs"] == echoed


def test_a_block_reads_as_text_with_its_decision() -> None:
    blocked = answer({"content": "I cannot say that."}, "content_filter", pilothouse=DECISION, usage=USAGE)
    whole = FORM.whole(blocked, asked(), ID)
    assert whole["choices"][0]["text"] == "I cannot say that." and whole["pilothouse"] == DECISION
    assert whole["choices"][0]["finish_reason"] == "content_filter"
