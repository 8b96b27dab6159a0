"""What /openapi.json describes is what the dialects take: schemathesis makes the bodies, and we change some."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.errors import ApiError
from pilothouse.serve.gateway.openapi import document
from tests.serve.dialects.answers import ID
from tests.serve.dialects.test_clients import FORMS

DOCUMENT = document(["desk", "desk-base"])
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
QUICK = settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
_ODD: tuple[Any, ...] = (None, True, 0, -1, 5.0, 1.5, 10**12, "", "x", "auto", [], [1], ["x"], {}, {"type": "text"})


def validator(schema: dict[str, Any]) -> Any:
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def json_body(operation: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def takes(form: Dialect, body: Any) -> ApiError | None:
    """Why it does not, if so. What is taken must be something to send and to read for a guard."""
    asked = json.loads(json.dumps(body))
    try:
        sent = form.request(asked)
    except ApiError as e:
        if e.code == "tool_not_found":
            return None  # which tools there are, no schema can know
        assert e.status == 400 and e.message
        return e
    json.dumps(sent)
    for holder, key in form.texts(sent)[0]:
        assert isinstance(holder[key], str)
    return None


@pytest.mark.parametrize("path", FORMS)
def test_every_body_that_the_document_allows_is_taken(path: str) -> None:
    @QUICK
    @given(case=SCHEMA[path]["POST"].as_strategy())
    def check(case: schemathesis.Case[Any]) -> None:
        why = takes(FORMS[path], case.body)
        assert why is None, why.message

    check()


@pytest.mark.parametrize("path", FORMS)
def test_a_changed_body_is_taken_exactly_when_the_document_allows_it(path: str) -> None:
    allowed = validator(json_body(DOCUMENT["paths"][path]["post"]))

    @QUICK
    @given(case=SCHEMA[path]["POST"].as_strategy(), data=st.data())
    def check(case: schemathesis.Case[Any], data: st.DataObject) -> None:
        body = json.loads(json.dumps(case.body))
        holder, key = data.draw(st.sampled_from(places(body)))
        if data.draw(st.booleans()):
            holder[key] = data.draw(st.sampled_from(_ODD))
        else:
            del holder[key]
        if body.get("model") not in ("desk", "desk-base"):
            return  # the gateway looks at that
        why = takes(FORMS[path], body)
        assert (why is None) == allowed.is_valid(body), (why and why.message, body)

    check()


def places(body: Any) -> list[tuple[Any, Any]]:
    """Every place in it that holds something."""
    found, open_ = [], [body]
    while open_:
        holder = open_.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            found.append((holder, key))
            if isinstance(value, dict | list):
                open_.append(value)
    return found


@pytest.mark.parametrize("path", FORMS)
def test_errors_have_the_shape_that_the_document_says(path: str) -> None:
    answers = DOCUMENT["paths"][path]["post"]["responses"]
    for status in (400, 401, 404, 413, 429, 500, 502, 503, 504):
        body = json.loads(FORMS[path].error(ApiError(status, "code", "what is wrong"), ID))
        schema = answers[str(status)]["content"]["application/json"]["schema"]
        assert validator(schema).is_valid(body) and not validator(schema).is_valid({})


def test_the_document_is_whole() -> None:
    assert set(DOCUMENT["paths"]) == {*FORMS, "/v1/models", "/v1/usage", "/v1/feedback", "/healthz", "/metrics"}
    text = json.dumps(DOCUMENT)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == {n for n in DOCUMENT["components"]["schemas"] if n in named} and "ChatRequest" in named
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    names = [op["operationId"] for path in DOCUMENT["paths"].values() for op in path.values()]
    assert len(names) == len(set(names))
    assert DOCUMENT["components"]["schemas"]["Model"]["enum"] == ["desk", "desk-base"]
    assert "security" not in document(["desk"], keyed=False)
