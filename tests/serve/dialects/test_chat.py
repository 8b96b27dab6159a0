"""The chat form: what is let through, what is refused and how clearly, what the guard is given to read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from pilothouse.serve.gateway.dialects import chat
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import ID, USAGE, asked, bytes_of, chunk, events

CHAT = chat.create()
USER = {"role": "user", "content": "hi"}


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "desk", "messages": [USER], **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"lora": [{"id": 0, "scale": 1.0}], "ignore_eos": True, "guided_json": {"type": "object"}},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "be brief"}]}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video_of_tomorrow"}]}]},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "5"}]},
        {"messages": [USER, {"role": "assistant", "content": "a", "reasoning_content": "b"}, USER]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
         "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"n": 16, "max_tokens": 1, "temperature": 2, "top_p": 0, "stop": ["a", "b", "c", "d"], "seed": -1},
        {"logprobs": True, "top_logprobs": 20, "user": "me", "logit_bias": {"5": -100}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": None, "stop": None, "n": None, "temperature": None, "tools": None},
    ],
)  # fmt: skip
def test_a_request_passes_as_it_is(fields: dict[str, Any]) -> None:
    request = ask(**fields)
    before = json.dumps(request)
    assert CHAT.request(request) is request and json.dumps(request) == before


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages[1]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "poem"}}, "response_format.type"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": 1.5}, "seed"),
        ({"user": 5}, "user"),
    ],
)  # fmt: skip
def test_a_request_no_engine_could_answer_is_refused_by_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as e:
        CHAT.request(ask(**fields))
    assert (e.value.status, e.value.param) == (400, param)
    assert e.value.message.startswith(param) and "\n" not in e.value.message
    body = json.loads(CHAT.error(e.value, ID))["error"]
    assert body["param"] == param and body["type"] == "invalid_request_error"


def test_a_small_request_is_checked_in_a_few_microseconds() -> None:
    request = ask(
        messages=[{"role": "system", "content": "be brief"}, USER], max_tokens=5, temperature=0.5, stream=True
    )

    def once() -> float:
        began = time.perf_counter()
        for _ in range(1_000):
            CHAT.request(request)
        return (time.perf_counter() - began) * 1e3

    assert min(once() for _ in range(5)) < 20  # µs; about 1 on a free core


def test_the_guard_reads_all_that_comes_from_outside() -> None:
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "ours"},
        {
            "role": "user",
            "name": "Ann",
            "content": [{"type": "text", "text": "a"}, {"type": "image_url", "text": "no"}],
        },
        {"role": "assistant", "content": "b", "reasoning_content": "c", "refusal": "d"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "e"}}]},
        {"role": "tool", "content": "f"},
        {"role": "user", "content": [{"type": "refusal", "refusal": "g"}]},
    ]
    more = {"documents": [{"title": "h", "text": "i"}], "chat_template": "j", "prompt_embeds": "AAAA"}
    body = {"model": "desk", "messages": said, **more, "chat_template_kwargs": {"enable_thinking": False}}
    places, unread = CHAT.texts(body)
    found: list[str] = [holder[key] for holder, key in places]
    assert sorted(found) == ["Ann", *"abcdefghij"]
    assert set(unread) == {"image_url", "embeddings"}
    for holder, key in places:
        holder[key] = "X"
    assert said[1]["content"][0]["text"] == said[3]["tool_calls"][0]["function"]["arguments"] == "X"
    assert said[0]["content"] == "ours" and body["chat_template"] == "X"


@pytest.mark.parametrize("wants_usage", [False, True])
def test_figures_come_only_when_asked_for(wants_usage: bool) -> None:
    chunks = [chunk({"content": "a"}, "stop"), {**chunk({}), "choices": [], "usage": USAGE}]
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if wants_usage else {}
    stream = bytes_of(CHAT, chunks, asked(**fields))
    assert len(events(stream)) == 1 + wants_usage and stream.endswith(b"data: [DONE]\n\n")
    assert {e["model"] for e in events(stream)} == {"desk"}


def test_a_broken_stream_says_so() -> None:
    (event,) = events(CHAT.stream(asked(), ID).fail("engine_failed", "it died"))
    assert event["error"]["code"] == "engine_failed" and event["error"]["message"] == "it died"
