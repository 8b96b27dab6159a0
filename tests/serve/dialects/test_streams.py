"""However an engine cuts its answer, a streamed answer says what the whole one says, in every dialect."""

from __future__ import annotations

from typing import Any

from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from pilothouse.serve.gateway.dialects import chat, completions, messages, responses
from tests.serve.dialects.answers import ID, USAGE, answers, asked, bytes_of, chunked, events
from tests.serve.dialects.folding import fold_chat, fold_completions, fold_message, fold_response

_TEXTS = ("reasoning_content", "content", "refusal")


def _cut(data: st.DataObject, whole: dict[str, Any], *, mixed: bool) -> list[dict[str, Any]]:
    return data.draw(chunked(whole, mixed=mixed))


@settings(max_examples=60, deadline=None)
@given(whole=answers(), data=st.data(), mixed=st.booleans())
def test_chat_passes_text_calls_reason_and_usage(whole: dict[str, Any], data: st.DataObject, mixed: bool) -> None:
    request = asked(stream_options={"include_usage": True})
    got = fold_chat(events(bytes_of(chat.create(), _cut(data, whole, mixed=mixed), request)))
    choice = whole["choices"][0]
    assert got["message"] == {f: v for f, v in choice["message"].items() if f in _TEXTS and v}
    assert [c["arguments"] for c in got["calls"]] == [
        c["function"]["arguments"] for c in choice["message"].get("tool_calls", [])
    ]
    assert (got["finish"], got["usage"], got["pilothouse"]) == (
        choice["finish_reason"],
        USAGE,
        whole.get("pilothouse"),
    )


@settings(max_examples=60, deadline=None)
@given(whole=answers(), data=st.data(), mixed=st.booleans())
def test_completions_stream_the_text_of_the_whole(whole: dict[str, Any], data: st.DataObject, mixed: bool) -> None:
    dialect, request = completions.create(), asked(stream_options={"include_usage": True})
    got = fold_completions(events(bytes_of(dialect, _cut(data, whole, mixed=mixed), request)))
    expected = dialect.whole(whole, request, ID)
    assert got["text"] == expected["choices"][0]["text"]
    assert got["finish"] == expected["choices"][0]["finish_reason"]
    assert (got["usage"], got["pilothouse"]) == (USAGE, whole.get("pilothouse"))


@settings(max_examples=80, deadline=None)
@given(whole=answers(), data=st.data())
def test_a_response_is_the_same_streamed_or_whole(whole: dict[str, Any], data: st.DataObject) -> None:
    dialect, request = responses.create(), asked()
    got = fold_response(events(bytes_of(dialect, _cut(data, whole, mixed=False), request)))
    expected = dialect.whole(whole, request, ID)
    Response.model_validate(expected)
    assert got == expected


@settings(max_examples=80, deadline=None)
@given(whole=answers(), data=st.data())
def test_a_response_says_the_same_when_its_texts_take_turns(whole: dict[str, Any], data: st.DataObject) -> None:
    dialect, request = responses.create(), asked()
    got = fold_response(events(bytes_of(dialect, _cut(data, whole, mixed=True), request)))
    expected = dialect.whole(whole, request, ID)

    def said(response: dict[str, Any]) -> list[Any]:
        items = [{k: v for k, v in item.items() if k not in ("id", "status")} for item in response["output"]]
        for item in items:
            if "content" in item:
                item["content"] = sorted(item["content"], key=str)
        return sorted(items, key=str)

    assert said(got) == said(expected)
    assert {**got, "output": None} == {**expected, "output": None}


@settings(max_examples=80, deadline=None)
@given(whole=answers(), data=st.data())
def test_a_message_is_the_same_streamed_or_whole(whole: dict[str, Any], data: st.DataObject) -> None:
    dialect, request = messages.create(), asked()
    got = fold_message(events(bytes_of(dialect, _cut(data, whole, mixed=False), request)))
    expected = dialect.whole(whole, request, ID)
    Message.model_validate(expected)
    assert got == expected


@settings(max_examples=80, deadline=None)
@given(whole=answers(), data=st.data())
def test_a_message_says_the_same_when_its_texts_take_turns(whole: dict[str, Any], data: st.DataObject) -> None:
    dialect, request = messages.create(), asked()
    choice = whole["choices"][0]["message"]
    if choice.get("content") and choice.get("refusal"):
        del choice["refusal"]  # both are text here, and whose turn comes first is free
    got = fold_message(events(bytes_of(dialect, _cut(data, whole, mixed=True), request)))
    expected = dialect.whole(whole, request, ID)

    def said(message: dict[str, Any]) -> tuple[str, str, list[Any]]:
        blocks = message["content"]
        calls = [b for b in blocks if b["type"] == "tool_use"]
        return (
            "".join(b["text"] for b in blocks if b["type"] == "text"),
            "".join(b["thinking"] for b in blocks if b["type"] == "thinking"),
            sorted(calls, key=lambda c: c["id"]),
        )

    assert said(got) == said(expected)
    assert {**got, "content": None} == {**expected, "content": None}
