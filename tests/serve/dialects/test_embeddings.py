"""Vectors: texts or tokens in, nothing for a guard in what comes out, no stream, and a refusal that is an error."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.serve.gateway.dialects import embeddings
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import DECISION, ID, answer, asked

FORM = embeddings.create()


@pytest.mark.parametrize("texts", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_kind_of_input_passes_untouched(texts: Any) -> None:
    request = {"model": "desk", "input": texts, "encoding_format": "base64", "dimensions": 64, "truncate": True}
    assert FORM.request(request) is request and not FORM.answers_text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_has_no_vector_is_refused_by_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as e:
        FORM.request({"model": "desk", "input": "a", **fields})
    assert (e.value.status, e.value.param) == (400, param)


def test_the_guard_reads_texts_and_is_told_of_tokens() -> None:
    assert [holder[key] for holder, key in FORM.texts({"input": ["a", "b"]})[0]] == ["a", "b"]
    assert FORM.texts({"input": [[1]]}) == ([], ("tokens",))


def test_vectors_come_under_the_public_name_and_a_refusal_is_an_error() -> None:
    vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "engine"}
    assert FORM.whole(FORM.lift(vectors, streamed=False), asked(), ID) == {**vectors, "model": "desk"}
    with pytest.raises(ApiError, match="secrets refused the input") as e:
        FORM.whole(answer({"content": "no"}, "content_filter", pilothouse=DECISION), asked(), ID)
    assert e.value.code == "content_filter"
