"""Every form through the gateway itself: each is read by the guard, says its decision, and suits its clients."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.serve.dialects.answers import events
from tests.serve.dialects.folding import fold_chat, fold_completions, fold_message, fold_response
from tests.serve.dialects.test_clients import CLAUDE_TOOL, TOOL, continued, embedded, said
from tests.serve.scripted import USAGE, Answer, Wire, chunk, front, run, sse, streamed, whole
from tests.serve.test_gateway_guard import REFUSAL, SECRET, policy

TEXT = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def ask(path: str, text: str, **fields: Any) -> dict[str, Any]:
    """The same question in each form."""
    turns = [{"role": "user", "content": text}]
    said_as: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": turns},
        "/v1/completions": {"prompt": text},
        "/v1/responses": {"input": text},
        "/v1/messages": {"messages": turns, "max_tokens": 9},
        "/v1/embeddings": {"input": text},
    }
    return {"model": "desk", **said_as[path], **fields}


def speaks(*pieces: str) -> Any:
    """An engine that says these, in the form that it is asked in."""

    async def script(request: dict[str, Any], wire: Wire) -> None:
        if "prompt" in request:
            choices = [{"index": 0, "text": p, "logprobs": None, "finish_reason": None} for p in pieces]
            ends = [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
            head = {"id": "c", "object": "text_completion", "created": 1, "model": "engine"}
            if request.get("stream"):
                cut = [sse({**head, "choices": [c]}) for c in (*choices, *ends)]
                await wire.stream([*cut, b"data: [DONE]\n\n"])
            else:
                one = {**ends[0], "text": "".join(pieces)}
                await wire.json(json.dumps({**head, "choices": [one], "usage": USAGE}).encode())
        elif request.get("stream"):
            await wire.stream(streamed(list(pieces)))
        else:
            await wire.json(whole("".join(pieces)))

    return script


def read(path: str, got: Answer, *, stream: bool) -> tuple[str, str, Any]:
    """Text, reason and decision of an answer in any form."""
    if path == "/v1/responses":
        response = fold_response(events(got.body)) if stream else got.json
        reason = (response["incomplete_details"] or {"reason": response["status"]})["reason"]
        return response["output"][0]["content"][0]["text"], reason, response.get("pilothouse")
    if path == "/v1/messages":
        message = fold_message(events(got.body)) if stream else got.json
        return message["content"][0]["text"], message["stop_reason"], message.get("pilothouse")
    if stream:
        fold = fold_chat if path == TEXT[0] else fold_completions
        told = fold(events(got.body))
        return told.get("text", told.get("message", {}).get("content")), told["finish"], told["pilothouse"]
    choice = got.json["choices"][0]
    return (
        choice.get("text", choice.get("message", {}).get("content")),
        choice["finish_reason"],
        got.json.get("pilothouse"),
    )


BLOCKED = {"/v1/messages": "refusal"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", TEXT)
def test_a_blocked_request_is_refused_in_its_own_form(path: str, stream: bool) -> None:
    async def check() -> None:
        async with front(speaks("x"), policy=policy()) as f:
            got = await f.post(ask(path, f"say {SECRET}", stream=stream), path=path)
            text, reason, decision = read(path, got, stream=stream)
            (e,) = await f.recorded()
            assert f.engine.requests == [] and got.status == 200
            assert (text, reason) == (REFUSAL, BLOCKED.get(path, "content_filter"))
            assert decision == {"guard": "banned", "category": "banned", "decision_id": e.id}
            assert got.headers["x-pilothouse-guard"] == "banned" and e.guard == "blocked"

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", TEXT)
def test_a_blocked_answer_never_shows_what_blocked_it(path: str, stream: bool) -> None:
    async def check() -> None:
        async with front(speaks("It is ", SECRET[:4], SECRET[4:], " now"), policy=policy()) as f:
            got = await f.post(ask(path, "what is it?", stream=stream), path=path)
            text, reason, decision = read(path, got, stream=stream)
            assert text.endswith(REFUSAL) and reason == BLOCKED.get(path, "content_filter")
            assert decision["guard"] == "banned" and SECRET[:4].encode() not in got.body

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", TEXT)
def test_a_redaction_is_the_same_in_every_form(path: str, stream: bool) -> None:
    async def check() -> None:
        async with front(speaks("It is ", SECRET[:4], SECRET[4:], " now"), policy=policy(action="redact")) as f:
            got = await f.post(ask(path, f"{SECRET}?", stream=stream), path=path)
            text, _, decision = read(path, got, stream=stream)
            assert text.startswith("It is ") and text.endswith(" now") and SECRET not in text and decision is None
            assert SECRET not in json.dumps(f.engine.requests)
            (e,) = await f.recorded()
            assert e.guard == "redacted" and e.api == path[4:].partition("/")[0]

    run(check())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_arguments_of_calls_are_guarded_in_every_form(path: str, stream: bool) -> None:
    call = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": ""}}
    parts = ['{"a": "swo', 'rdfish", "b": 1', "}"]

    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request.get("stream"):
            deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in parts]
            cut = [chunk({"tool_calls": [call]}), *map(chunk, deltas), chunk({}, "tool_calls")]
            await wire.stream([*map(sse, cut), b"data: [DONE]\n\n"])
        else:
            await wire.json(whole("", tool_calls=[{**call, "function": {"name": "f", "arguments": "".join(parts)}}]))

    async def check() -> None:
        async with front(script, policy=policy(action="redact")) as f:
            got = await f.post(ask(path, "hi", stream=stream), path=path)
            assert got.status == 200 and SECRET not in got.body.decode()
            if path == "/v1/responses":
                response = fold_response(events(got.body)) if stream else got.json
                made = json.loads(next(i for i in response["output"] if i["type"] == "function_call")["arguments"])
            else:
                message = fold_message(events(got.body)) if stream else got.json
                made = next(b for b in message["content"] if b["type"] == "tool_use")["input"]
            assert made["b"] == 1 and SECRET not in made["a"]

    run(check())


def test_a_blocked_embedding_is_an_error_and_tokens_are_never_called_passed() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        await wire.json(json.dumps(embedded(request)[0]).encode())

    async def check() -> None:
        async with front(script, policy=policy()) as f:
            got = await f.post(ask("/v1/embeddings", SECRET), path="/v1/embeddings")
            assert (got.status, got.json["error"]["code"]) == (400, "content_filter") and f.engine.requests == []
            got = await f.post({"model": "desk", "input": [1, 2]}, path="/v1/embeddings")
            assert got.status == 200 and got.json["data"][0]["embedding"] == [0.5, -0.25]
            assert [e.guard for e in await f.recorded(2)] == ["blocked", "unscanned"]

    run(check())


def test_the_real_clients_speak_with_the_gateway() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        told, chunks = continued(request) if "prompt" in request else said(request)
        if request.get("stream"):
            await wire.stream([*map(sse, chunks), b"data: [DONE]\n\n"])
        else:
            await wire.json(json.dumps(told).encode())

    async def check() -> None:
        async with front(script, keys={"me": "k"}) as f:
            ours = openai.AsyncOpenAI(base_url=f"{f.url}/v1", api_key="k", max_retries=0)
            async with ours.responses.stream(model="desk", input="hi", tools=[TOOL]) as stream:
                response = await stream.get_final_response()
            assert response.output_text == "Hello wörld" and response.model == "desk"
            older = await ours.completions.create(model="desk", prompt="Hello ", logprobs=1)
            assert older.choices[0].logprobs is not None and older.choices[0].logprobs.tokens == ["wörld"]
            theirs = anthropic.AsyncAnthropic(base_url=f.url, api_key="k", max_retries=0)
            turn: Any = {"role": "user", "content": "hi"}
            async with theirs.messages.stream(
                model="desk", max_tokens=9, messages=[turn], tools=[CLAUDE_TOOL]
            ) as messages:
                message = await messages.get_final_message()
            assert message.stop_reason == "tool_use" and message.model == "desk"
            with pytest.raises(anthropic.NotFoundError, match="no model is called") as e:
                await theirs.messages.create(model="other", max_tokens=9, messages=[turn])
            assert e.value.body["type"] == "error" if isinstance(e.value.body, dict) else False
            await ours.close()
            await theirs.close()

    run(check())
