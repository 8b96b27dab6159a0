"""The newer form of OpenAI: items become messages, an answer becomes items, what would have to be kept is refused."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response

from pilothouse.serve.gateway.dialects import responses
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import DECISION, ID, answer, asked, bytes_of, call, chunk, events
from tests.serve.dialects.folding import RESPONSE_EVENTS, fold_response

FORM = responses.create()
CHAT_LOGPROBS = {"content": [{"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": [
    {"token": "e", "logprob": -1.0, "bytes": [101]}]}]}  # fmt: skip


def ask(**fields: Any) -> dict[str, Any]:
    return FORM.request({"model": "desk", "input": "hi", **fields})


def test_text_and_instructions_become_messages_and_an_engines_own_fields_stay() -> None:
    body = ask(instructions="be brief", max_output_tokens=9, temperature=0.5, lora=[1], seed=3, stream=True, store=True)
    assert body == {
        "model": "desk",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "lora": [1],
        "seed": 3,
        "stream": True,
    }


def test_a_turn_of_thoughts_words_and_calls_is_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "c", "annotations": []}, {"type": "output_text", "text": "d"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "1", "output": "5"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "6"}]},
        {"role": "user", "content": [
            {"type": "input_text", "text": "e"}, {"type": "input_image", "image_url": "data:,", "detail": "low"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": "why"},
    ]  # fmt: skip
    calls = [call(i, a) for i, a in ((1, "{}"), (2, "[]"))]
    for made, name, made_id in zip(calls, "fg", "12", strict=True):
        made["id"], made["function"]["name"] = made_id, name
    assert ask(input=items)["messages"] == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "cd", "reasoning_content": "t", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "5"},
        {"role": "tool", "tool_call_id": "2", "content": "6"},
        {"role": "user", "content": [
            {"type": "text", "text": "e"}, {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": "why"},
    ]  # fmt: skip


def test_files_and_sound_travel_as_parts() -> None:
    parts = [
        {"type": "input_file", "file_data": "data:,", "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    (message,) = ask(input=[{"role": "user", "content": parts}])["messages"]
    assert message["content"] == [
        {"type": "file", "file": {"file_data": "data:,", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert FORM.texts({"messages": [message]})[1] == ("file", "input_audio")


def test_tools_choice_shape_and_effort_are_said_in_chat_words() -> None:
    schema = {"type": "object"}
    tools = [{"type": "function", "name": n, "parameters": schema, "strict": True} for n in "fg"]
    body = ask(
        tools=tools,
        tool_choice={"type": "function", "name": "g"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    assert body["tools"][0] == {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "g"}}
    assert body["response_format"]["json_schema"] == {"name": "a", "schema": schema, "strict": True}
    assert (body["parallel_tool_calls"], body["reasoning_effort"], body["verbosity"]) == (False, "low", "low")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    body = ask(tools=tools, tool_choice=some)
    assert [t["function"]["name"] for t in body["tools"]] == ["g"] and body["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no response is kept"),
        ({"conversation": "conv_1"}, "conversation", "no response is kept"),
        ({"background": True}, "background", "waits"),
        ({"prompt": {"id": "p"}}, "prompt", "no prompt templates"),
        ({"truncation": "auto"}, "truncation", "nothing is cut"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
        ({"include": ["file_search_call.results"]}, "include[0]", "file_search_call"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "no response is kept"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content", "encrypted"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id", "expected `null`"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "'tool'"),
        ({"input": []}, "input", "at least one"),
        ({"input": 5}, "input", "expected text"),
        ({"messages": []}, "messages", "no field of /v1/responses"),
        ({"n": 2}, "n", "no field of /v1/responses"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"metadata": {"a": 1}}, "metadata[...]", "str"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_here_is_refused_clearly(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(ApiError, match=says.replace("[", r"\[")) as e:
        ask(**fields)
    assert (e.value.status, e.value.param) == (400, param)


def test_a_choice_among_tools_that_are_not_there_is_not_found() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "h"}]}
    with pytest.raises(ApiError, match="none called h") as e:
        ask(tool_choice=choice)
    assert (e.value.status, e.value.code) == (404, "tool_not_found")


def test_the_answer_repeats_the_request_and_says_that_nothing_is_stored() -> None:
    request = asked(store=True, temperature=0.5, metadata={"a": "b"}, tools=[{"type": "function", "name": "f"}])
    got = FORM.whole(answer({"content": "hello"}), request, ID)
    response = Response.model_validate(got)
    assert response.output_text == "hello" and response.status == "completed" and response.model == "desk"
    assert (got["store"], got["temperature"], got["metadata"]) == (False, 0.5, {"a": "b"})
    assert response.usage is not None and response.usage.input_tokens_details.cached_tokens == 4


def test_log_probabilities_come_with_their_text() -> None:
    whole = answer({"content": "é"})
    whole["choices"][0]["logprobs"] = CHAT_LOGPROBS
    one = chunk({"content": "é"}, "stop")
    one["choices"][0]["logprobs"] = CHAT_LOGPROBS
    got = fold_response(events(bytes_of(FORM, [one], asked())))
    expected = [{"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [
        {"token": "e", "logprob": -1.0, "bytes": [101]}]}]  # fmt: skip
    assert got["output"][0]["content"][0]["logprobs"] == expected
    assert FORM.whole(whole, asked(), ID)["output"] == got["output"]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete_and_says_why(finish: str, reason: str) -> None:
    last = chunk({"content": "I cannot say that."}, finish, pilothouse=DECISION)
    stream = events(bytes_of(FORM, [chunk({"content": "The key is "}), last], asked()))
    got = fold_response(stream)
    assert stream[-1]["type"] == "response.incomplete" and got["incomplete_details"] == {"reason": reason}
    assert got["pilothouse"] == DECISION and got["output"][-1]["status"] == "incomplete"


def test_an_empty_answer_has_an_item_all_the_same() -> None:
    got = fold_response(events(bytes_of(FORM, [chunk({"role": "assistant"}, "stop")], asked())))
    assert [i["type"] for i in got["output"]] == ["message"] and got["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize("before", [[], [chunk({"content": "a"})]])
def test_a_broken_stream_ends_in_a_failed_response(before: list[dict[str, Any]]) -> None:
    stream = FORM.stream(asked(), ID)
    out = events(b"".join([stream.chunk(c) for c in before]) + stream.fail("engine_failed", "it died"))
    for event in out:
        RESPONSE_EVENTS[event["type"]].model_validate(event)
    assert [e["type"] for e in out[:2]] == ["response.created", "response.in_progress"]
    assert out[-1]["type"] == "response.failed"
    assert out[-1]["response"]["error"] == {"code": "server_error", "message": "engine_failed: it died"}
