"""Chat through the gateway: what reaches the engine, what comes back, what is counted and recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.serve.scripted import USAGE, Wire, ask, chunk, front, run, sse, streamed, whole


async def answers(request: dict[str, Any], wire: Wire) -> None:
    if request.get("stream"):
        await wire.stream(streamed(["Hel", "lo", " wörld"]))
    else:
        await wire.json(whole("Hello"))


def test_whole_answer_with_adapter_prompt_and_record() -> None:
    async def check() -> None:
        async with front(answers) as f:
            got = await f.post(ask())
            assert got.status == 200 and got.json["choices"][0]["message"]["content"] == "Hello"
            assert got.json["model"] == "desk"
            sent = f.engine.requests[0]
            assert sent["model"] == "engine" and sent["lora"] == [{"id": 0, "scale": 1.0}]
            assert sent["messages"] == [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ]
            assert b"authorization: bearer engine-secret" in f.engine.heads[0].lower()
            (e,) = await f.recorded()
            assert got.headers["x-request-id"] == e.id
            assert (e.model, e.release, e.status, e.guard, e.stream) == ("desk", "r1", 200, "off", False)
            assert (e.tokens_in, e.tokens_out, e.answer) == (11, 3, "Hello")
            assert e.ttft_ms is None and e.latency_ms is not None  # who gets it whole has no first token

    run(check())


def test_the_base_route_turns_adapters_off_and_a_callers_own_system_message_stays() -> None:
    async def check() -> None:
        async with front(answers) as f:
            mine = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "hi"}]
            await f.post({"model": "desk-base", "messages": mine, "lora": [{"id": 0, "scale": 9.0}]})
            sent = f.engine.requests[0]
            assert sent["lora"] == [{"id": 0, "scale": 0.0}]
            assert sent["messages"] == mine

    run(check())


@pytest.mark.parametrize("wants_usage", [False, True])
def test_stream_passes_through_and_usage_only_when_asked(wants_usage: bool) -> None:
    async def check() -> None:
        async with front(answers) as f:
            fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if wants_usage else {}
            got = await f.post(ask(stream=True, **fields))
            assert got.headers["content-type"] == "text/event-stream" and got.whole
            assert f.engine.requests[0]["stream_options"] == {"include_usage": True}
            assert got.text() == "Hello wörld" and got.events[-1] == "[DONE]"
            usages = [e["usage"] for e in got.events[:-1] if e.get("usage")]
            assert usages == ([USAGE] if wants_usage else [])
            (e,) = await f.recorded()
            assert (e.tokens_in, e.tokens_out, e.answer, e.stream) == (11, 3, "Hello wörld", True)

    run(check())


def test_a_chunk_without_usage_passes_byte_for_byte() -> None:
    odd = b'data: {"choices" : [ {"index":0,"delta":{"content":"\\u00e9 usage"} } ],  "x": 1.50}\n\n'

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream([odd, b": ping\n\n", b"data: [DONE]\n\n"])

    async def check() -> None:
        async with front(script) as f:
            got = await f.post(ask(stream=True))
            assert got.body == odd + b": ping\n\ndata: [DONE]\n\n"

    run(check())


def test_a_role_chunk_is_no_token() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        await wire.piece(sse(chunk({"role": "assistant", "content": None})))
        await asyncio.sleep(0.15)
        await wire.piece(sse(chunk({"content": "x"}, "stop")) + b"data: [DONE]\n\n")
        wire.writer.write(b"0\r\n\r\n")

    async def check() -> None:
        async with front(script) as f:
            await f.post(ask(stream=True))
            (e,) = await f.recorded()
            assert e.ttft_ms is not None and e.ttft_ms > 140

    run(check())


def test_models_health_and_metrics() -> None:
    async def check() -> None:
        async with front(answers) as f:
            models = await f.get("/v1/models")
            assert [m["id"] for m in models.json["data"]] == ["desk", "desk-base"]
            assert (await f.get("/healthz")).status == 200
            for path in ("/healthz", "/metrics", "/v1/models", "/nowhere"):
                assert 0 <= int((await f.get(path)).headers["x-pilothouse-overhead-us"]) < 5_000_000
            head = await f.get("/healthz", method="HEAD")
            assert head.status == 200 and head.body == b"" and int(head.headers["content-length"]) > 0
            await f.post(ask())
            await f.post(ask(stream=True))
            await f.recorded(2)
            text = (await f.get("/metrics")).body.decode()
            assert 'pilothouse_requests_total{model="desk",status="200"} 2.0' in text
            assert 'gen_ai_client_token_usage_total{model="desk",type="output"} 6.0' in text
            assert 'gen_ai_server_time_to_first_token_seconds_count{model="desk"} 1.0' in text
            assert "pilothouse_requests_in_flight 0.0" in text
            f.update(ready=False, failure="it ended")
            ill = await f.get("/healthz")
            assert ill.status == 503 and ill.json["engine"]["failure"] == "it ended"

    run(check())


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"{", 400, "invalid_json", "JSON"),
        (b"", 400, "invalid_json", "JSON"),
        (b"[1]", 400, "invalid_request", "object"),
        (b"[" * 50_000, 400, "invalid_json", "JSON"),
        (b'{"model":"desk","messages":[{"role":"user","content":"\xff"}]}', 400, "invalid_json", "JSON"),
        ({"model": "other", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found", "desk, desk-base"),
        ({"messages": [{"role": "user", "content": "x"}]}, 400, "invalid_request", "model"),
        ({"model": "desk"}, 400, "invalid_request", "messages"),
        ({"model": "desk", "messages": []}, 400, "invalid_request", "messages"),
        ({"model": "desk", "messages": ["x"]}, 400, "invalid_request", "messages[0]"),
        ({"model": "desk", "messages": [{"role": "user", "content": 3}]}, 400, "invalid_request", "content"),
        (ask(stream="yes"), 400, "invalid_request", "stream"),
        (ask(stream=True, stream_options=[1]), 400, "invalid_request", "stream_options"),
    ],
)
def test_a_request_that_no_engine_could_answer_is_refused_in_openais_shape(
    body: Any, status: int, code: str, says: str
) -> None:
    async def check() -> None:
        async with front(answers) as f:
            got = await f.post(body)
            assert got.status == status
            error = got.json["error"]
            assert error["code"] == code and says in error["message"] and error["type"] == "invalid_request_error"
            assert f.engine.requests == []

    run(check())


def test_an_error_of_the_engine_is_handed_on() -> None:
    fault = b'{"error":{"message":"the request exceeds the context","type":"invalid_request_error","code":400}}'

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.json(fault, 400)

    async def check() -> None:
        async with front(script) as f:
            for stream in (False, True):
                got = await f.post(ask(stream=stream))
                assert (got.status, got.body) == (400, fault)
                assert got.headers["content-type"] == "application/json"
            assert [e.status for e in await f.recorded(2)] == [400, 400]

    run(check())


def test_feedback_reaches_the_recorder() -> None:
    async def check() -> None:
        async with front(answers) as f:
            exchange = (await f.post(ask())).headers["x-request-id"]
            good = {"exchange": exchange, "kind": "thumb", "value": "up"}
            assert (await f.post(good, path="/v1/feedback")).status == 200
            assert (await f.post({**good, "exchange": "req_0"}, path="/v1/feedback")).status == 404
            assert (await f.post({**good, "kind": "shout"}, path="/v1/feedback")).status == 400
            assert (await f.post({"exchange": exchange}, path="/v1/feedback")).status == 400

    run(check())


def test_two_hundred_streams_at_once() -> None:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        word = request["messages"][-1]["content"]
        await wire.stream(streamed([f"{word}.{i} " for i in range(10)]), pause=0.01)

    async def check() -> None:
        async with front(script) as f:
            got = await asyncio.gather(*(f.post(ask(f"w{i}", stream=True)) for i in range(200)))
            for i, answer in enumerate(got):
                assert answer.text() == "".join(f"w{i}.{k} " for k in range(10))
                assert answer.events[-1] == "[DONE]"
            assert len({a.headers["x-request-id"] for a in got}) == 200
            assert len(await f.recorded(200)) == 200

    run(check())
