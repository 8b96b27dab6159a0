"""The real clients of OpenAI and Anthropic against what the dialects write, over a transport instead of a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from pilothouse.serve.gateway.dialect import Dialect
from pilothouse.serve.gateway.dialects import chat, completions, embeddings, messages, responses
from pilothouse.serve.gateway.errors import ApiError
from tests.serve.dialects.answers import DECISION, ID, USAGE, answer, call, chunk

Script = Callable[[dict[str, Any]], tuple[dict[str, Any], list[dict[str, Any]]]]
"""The engine: a whole answer and the same in chunks, for the engine's body."""

FORMS: dict[str, Dialect] = {
    d.path: d for d in (chat.create(), completions.create(), responses.create(), messages.create(), embeddings.create())
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def said(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Thinks, speaks, and calls where there are tools."""
    message: dict[str, Any] = {"reasoning_content": "Hm. So.", "content": "Hello wörld"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, {"reasoning_content": "Hm. "}]
    deltas += [{"reasoning_content": "So."}, {"content": "Hello "}, {"content": "wörld"}]
    finish = "stop"
    if body.get("tools"):
        made = call(0, '{"city": "Oslo"}')
        made["function"]["name"] = body["tools"][0]["function"]["name"]
        message["tool_calls"], finish = [made], "tool_calls"
        deltas.append({"tool_calls": [{**made, "index": 0, "function": {**made["function"], "arguments": ""}}]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": a}}]} for a in ('{"city"', ': "Oslo"}')]
    chunks = [*map(chunk, deltas), chunk({}, finish), {**chunk({}), "choices": [], "usage": USAGE}]
    return answer(message, finish), chunks


def blocked(_: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A guard ended it."""
    whole = answer({"content": "I cannot say that."}, "content_filter", pilothouse=DECISION)
    return whole, [chunk({"content": "I cannot say that."}, "content_filter", pilothouse=DECISION)]


def continued(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An engine's older form."""
    logprobs = {"tokens": ["wörld"], "token_logprobs": [-0.5], "top_logprobs": [{"wörld": -0.5}], "text_offset": [0]}
    one = {"index": 0, "text": "wörld", "logprobs": logprobs if "logprobs" in body else None, "finish_reason": "stop"}
    whole = {"id": "c", "object": "text_completion", "created": 1, "model": "engine", "choices": [one], "usage": USAGE}
    return whole, [whole]


def embedded(_: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Vectors."""
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
    return {"object": "list", "data": data, "model": "engine", "usage": {"prompt_tokens": 3, "total_tokens": 3}}, []


def gateway(script: Script) -> httpx2.Client:
    """A client whose every request a dialect answers, streams cut into odd pieces."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        form = FORMS[request.url.path]
        asked = json.loads(request.content)
        try:
            whole, chunks = script(form.request(asked))
            if not asked.get("stream"):
                return httpx2.Response(200, json=form.whole(form.lift(whole, streamed=False), asked, ID))
        except ApiError as e:
            head = {"content-type": "application/json", "request-id": ID}
            return httpx2.Response(e.status, content=form.error(e, ID), headers=head)
        stream = form.stream(asked, ID)
        out = b"".join([*(stream.chunk(form.lift(c, streamed=True)) for c in chunks), stream.end()])
        pieces = (out[i : i + 37] for i in range(0, len(out), 37))
        return httpx2.Response(200, content=pieces, headers={"content-type": "text/event-stream"})

    return httpx2.Client(transport=httpx2.MockTransport(handle))


def ours(script: Script = said) -> openai.OpenAI:
    """OpenAI's client, made strict: an answer that is not of its type is an error."""
    return openai.OpenAI(
        base_url="http://gateway/v1",
        api_key="key",
        max_retries=0,
        http_client=gateway(script),
        _strict_response_validation=True,
    )


def theirs(script: Script = said) -> anthropic.Anthropic:
    """Anthropic's client, as strict."""
    return anthropic.Anthropic(
        base_url="http://gateway",
        api_key="key",
        max_retries=0,
        http_client=gateway(script),
        _strict_response_validation=True,
    )


TOOL: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}


def test_openai_chat_whole_and_streamed() -> None:
    whole = ours().chat.completions.create(
        model="desk", messages=[{"role": "user", "content": "hi"}], tools=[CHAT_TOOL]
    )
    assert whole.choices[0].message.content == "Hello wörld" and whole.model == "desk"
    with ours().chat.completions.stream(
        model="desk",
        messages=[{"role": "user", "content": "hi"}],
        tools=[CHAT_TOOL],
        stream_options={"include_usage": True},
    ) as stream:
        final = stream.get_final_completion()
    (made,) = final.choices[0].message.tool_calls or []
    assert final.choices[0].message.content == "Hello wörld" and made.function.arguments == '{"city": "Oslo"}'
    assert final.usage is not None and final.usage.total_tokens == 18


def test_openai_completions_whole_and_streamed() -> None:
    whole = ours(continued).completions.create(model="desk", prompt="Hello ", logprobs=1)
    assert whole.choices[0].text == "wörld" and whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.tokens == ["wörld"]
    chunks = list(ours(continued).completions.create(model="desk", prompt="Hello ", stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "wörld"


def test_openai_responses_whole() -> None:
    got = ours().responses.create(model="desk", input="hi", tools=[TOOL])
    assert [i.type for i in got.output] == [
        "reasoning",
        "message",
        "function_call",
    ] and got.output_text == "Hello wörld"
    assert got.usage is not None and got.usage.total_tokens == 18


def test_openai_responses_streamed() -> None:
    with ours().responses.stream(model="desk", input="hi", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") == 2 and kinds.count("response.reasoning_text.delta") == 2
    assert final.output_text == "Hello wörld"
    (made,) = [i for i in final.output if i.type == "function_call"]
    assert made.parsed_arguments == {"city": "Oslo"}


def test_openai_responses_go_round_with_a_tools_output() -> None:
    """What came back can be sent again as it is: the way agents keep a conversation without a store."""
    seen: list[dict[str, Any]] = []

    def script(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        seen.append(body)
        return said(body)

    client = ours(script)
    first = client.responses.create(model="desk", input="hi", tools=[TOOL])
    history: Any = [{"role": "user", "content": "hi"}, *(i.to_dict() for i in first.output)]
    history.append({"type": "function_call_output", "call_id": "call_0", "output": "rain"})
    client.responses.create(model="desk", input=history)
    _, turn, result = seen[1]["messages"]
    assert (turn["content"], turn["reasoning_content"]) == ("Hello wörld", "Hm. So.")
    assert turn["tool_calls"][0]["id"] == result["tool_call_id"] == "call_0" and result["content"] == "rain"


def test_openai_sees_a_block_in_every_form() -> None:
    for stream in (False, True):
        got: Any = ours(blocked).responses.create(model="desk", input="hi", stream=stream)
        response = list(got)[-1].response if stream else got
        assert response.incomplete_details.reason == "content_filter" and response.pilothouse == DECISION
    chat_answer: Any = ours(blocked).chat.completions.create(model="desk", messages=[{"role": "user", "content": "hi"}])
    assert chat_answer.choices[0].finish_reason == "content_filter" and chat_answer.pilothouse == DECISION


def test_openai_embeddings_and_a_clear_error() -> None:
    got = ours(embedded).embeddings.create(model="desk", input=["hi"], encoding_format="float")
    assert got.data[0].embedding == [0.5, -0.25] and got.model == "desk"
    with pytest.raises(openai.BadRequestError) as e:
        ours().responses.create(model="desk", input="hi", previous_response_id="resp_1")
    assert e.value.param == "previous_response_id" and e.value.code == "unsupported_value"


CLAUDE_TOOL: Any = {"name": "weather", "input_schema": WEATHER}


def test_anthropic_messages_whole() -> None:
    got = theirs().messages.create(
        model="desk", max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=[CLAUDE_TOOL]
    )
    thinking, text, use = got.content
    assert thinking.type == "thinking" and thinking.thinking == "Hm. So."
    assert text.type == "text" and text.text == "Hello wörld"
    assert use.type == "tool_use" and use.input == {"city": "Oslo"} and got.stop_reason == "tool_use"


def test_anthropic_messages_streamed() -> None:
    with theirs().messages.stream(
        model="desk", max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=[CLAUDE_TOOL]
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and kinds.count("content_block_stop") == 3
    assert [b.type for b in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[2].type == "tool_use" and final.content[2].input == {"city": "Oslo"}
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 7, 7)


def test_anthropic_goes_round_with_a_tools_result() -> None:
    seen: list[dict[str, Any]] = []

    def script(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        seen.append(body)
        return said(body)

    client = theirs(script)
    hi: Any = {"role": "user", "content": "hi"}
    first = client.messages.create(model="desk", max_tokens=9, messages=[hi], tools=[CLAUDE_TOOL])
    result: Any = {"type": "tool_result", "tool_use_id": "call_0", "content": "rain"}
    turn: Any = {"role": "assistant", "content": first.content}
    client.messages.create(model="desk", max_tokens=9, messages=[hi, turn, {"role": "user", "content": [result]}])
    _, again, told = seen[1]["messages"]
    assert (again["content"], again["reasoning_content"]) == ("Hello wörld", "Hm. So.")
    assert json.loads(again["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert told == {"role": "tool", "tool_call_id": "call_0", "content": "rain"}


def test_anthropic_sees_a_block_and_a_clear_error() -> None:
    hi: Any = {"role": "user", "content": "hi"}
    with theirs(blocked).messages.stream(model="desk", max_tokens=9, messages=[hi]) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "refusal"
    whole = theirs(blocked).messages.create(model="desk", max_tokens=9, messages=[hi])
    assert whole.to_dict()["pilothouse"] == DECISION
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        theirs().messages.create(model="desk", max_tokens=0, messages=[hi])


def test_a_broken_stream_is_an_error_in_the_clients() -> None:
    def cut(form: Dialect) -> httpx2.Client:
        stream = form.stream({"model": "desk", "stream": True}, ID)
        out = stream.chunk(chunk({"content": "Hel"})) + stream.fail("engine_failed", "it died")
        head = {"content-type": "text/event-stream"}
        return httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=out, headers=head)))

    client = openai.OpenAI(base_url="http://gateway/v1", api_key="k", max_retries=0, http_client=cut(chat.create()))
    with pytest.raises(openai.APIError, match="it died"):
        list(client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "hi"}], stream=True))
    other = anthropic.Anthropic(
        base_url="http://gateway", api_key="k", max_retries=0, http_client=cut(messages.create())
    )
    with pytest.raises(anthropic.APIStatusError, match="it died"):
        list(
            other.messages.create(model="desk", max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True)
        )
