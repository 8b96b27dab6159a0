"""Anthropic's form: blocks become messages, an answer becomes blocks one after another, errors in their own shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message

from pilothouse.serve.gateway.dialects import messages
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import DECISION, ID, answer, asked, bytes_of, call, chunk, events
from tests.serve.dialects.folding import fold_message

FORM = messages.create()
USER = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "input_schema": {"type": "object"}, "description": "d"}


def ask(**fields: Any) -> dict[str, Any]:
    return FORM.request({"model": "desk", "max_tokens": 9, "messages": [USER], **fields})


def test_a_plain_request_becomes_chat_and_an_engines_own_fields_stay() -> None:
    body = ask(
        system=[{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "brief"}],
        stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=4, metadata={"user_id": "u"}, lora=[1], stream=True,
    )  # fmt: skip
    assert body == {
        "model": "desk",
        "messages": [{"role": "system", "content": "be\nbrief"}, USER],
        "max_tokens": 9,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "user": "u",
        "lora": [1],
        "stream": True,
    }


def test_blocks_become_messages() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": ""},
            {"type": "text", "text": "c"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
            {"type": "text", "text": "d"}]},
        {"role": "user", "content": [
            {"type": "text", "text": "see"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
            {"type": "image", "source": {"type": "url", "url": "u"}},
            {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": [{"type": "text", "text": "e"}]}]},
        {"role": "assistant", "content": "f"},
        {"role": "system", "content": "g"},
    ]  # fmt: skip
    assert ask(messages=turns)["messages"] == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "cd", "reasoning_content": "t", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "Error: e"},
        {"role": "user", "content": [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": "f"},
        {"role": "system", "content": "g"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_and_their_choice(choice: dict[str, Any], said: Any) -> None:
    body = ask(tools=[TOOL], tool_choice=choice)
    function = {"name": "f", "parameters": {"type": "object"}, "description": "d"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == said and "parallel_tool_calls" not in body
    if choice["type"] != "none":
        assert (
            ask(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})["parallel_tool_calls"] is False
        )


def test_thinking_effort_and_shape_are_said_as_engines_hear_them() -> None:
    on = ask(thinking={"type": "enabled", "budget_tokens": 2048}, chat_template_kwargs={"tone": "dry"})
    assert on["chat_template_kwargs"] == {"enable_thinking": True, "tone": "dry"}
    assert on["thinking_budget_tokens"] == 2048
    off = ask(thinking={"type": "disabled"})
    assert off["chat_template_kwargs"] == {"enable_thinking": False} and "thinking_budget_tokens" not in off
    shaped = ask(output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}})
    assert shaped["reasoning_effort"] == "low"
    assert shaped["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": None}, "max_tokens", "int"),
        ({"messages": []}, "messages", "length"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
         "messages[0].content[0].type", "'document'"),
        ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
         "messages[0].content[0].type", "'redacted_thinking'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type", "run by no server"),
        ({"mcp_servers": [{"url": "u"}]}, "mcp_servers", "no tool servers"),
        ({"container": "c"}, "container", "no containers"),
        ({"temperature": 1.5}, "temperature", "<= 1"),
        ({"thinking": {"type": "enabled"}}, "thinking", "budget_tokens"),
        ({"n": 2}, "n", "no field of /v1/messages"),
        ({"stop": ["x"]}, "stop", "no field of /v1/messages"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_here_is_refused_clearly(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(ApiError, match=says) as e:
        ask(**fields)
    assert (e.value.status, e.value.param) == (400, param)


@pytest.mark.parametrize(
    ("finish", "fields", "reason"),
    [
        ("stop", {}, "end_turn"),
        ("length", {}, "max_tokens"),
        ("tool_calls", {}, "tool_use"),
        ("content_filter", {}, "refusal"),
        ("stop", {"stop_reason": "END"}, "stop_sequence"),
        ("stop", {"stop_reason": 2}, "end_turn"),
    ],
)
def test_why_it_stopped(finish: str, fields: dict[str, Any], reason: str) -> None:
    request = asked(stop_sequences=["END"])
    whole = answer({"content": "a"}, finish)
    whole["choices"][0] |= fields
    got = FORM.whole(whole, request, ID)
    assert got["stop_reason"] == reason and got["stop_sequence"] == ("END" if reason == "stop_sequence" else None)
    last = chunk({"content": "a"}, finish)
    last["choices"][0] |= fields
    assert fold_message(events(bytes_of(FORM, [last], request)))["stop_reason"] == reason


def test_a_forced_call_is_tool_use_although_the_engine_says_stop() -> None:
    assert FORM.whole(answer({"tool_calls": [call(0, "{}")]}), asked(), ID)["stop_reason"] == "tool_use"


def test_tokens_read_from_the_cache_are_not_counted_twice() -> None:
    usage = Message.model_validate(FORM.whole(answer({"content": "a"}), asked(), ID)).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 4, 7)


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", "5"])
def test_arguments_that_are_no_object_are_kept_as_they_are(arguments: str) -> None:
    got = FORM.whole(answer({"tool_calls": [call(0, arguments)]}), asked(), ID)
    assert got["content"][0]["input"] == {"INVALID_JSON": arguments}


def test_a_block_is_a_refusal_with_its_decision() -> None:
    last = chunk({"content": "I cannot say that."}, "content_filter", pilothouse=DECISION)
    got = fold_message(events(bytes_of(FORM, [chunk({"content": "The key is "}), last], asked())))
    assert got["stop_reason"] == "refusal" and got["pilothouse"] == DECISION
    assert got["content"][0]["text"] == "The key is I cannot say that."


def test_an_empty_stream_is_an_empty_message() -> None:
    got = fold_message(events(bytes_of(FORM, [], asked())))
    assert got["content"] == [] and got["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_shape(status: int, kind: str) -> None:
    body = json.loads(FORM.error(ApiError(status, "code", "what is wrong"), ID))
    assert body == {"type": "error", "error": {"type": kind, "message": "what is wrong"}, "request_id": ID}
