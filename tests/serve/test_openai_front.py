"""The thin front: any generator of pieces becomes OpenAI's protocol, as OpenAI's own client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import openai
import pytest

from pilothouse.core.client import run
from pilothouse.serve.engines._openai_front import Front, serve
from pilothouse.serve.engines._openai_pieces import Ask, EngineError, Generate, Piece
from pilothouse.serve.ports import free_port

HI: list[Any] = [{"role": "user", "content": "Hi"}]
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "enter", "arguments": '{"a":'}}


def scene(
    generate: Generate, play: Callable[[openai.AsyncOpenAI, int], Coroutine[Any, Any, None]], **front: Any
) -> None:
    """Serve `generate`, let OpenAI's client play, stop."""

    async def whole() -> None:
        port, stop = free_port(), asyncio.Event()
        serving = asyncio.create_task(serve(Front("desk", generate, "sesame", **front), port, stop))
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sesame", max_retries=0, timeout=10) as client:
            try:
                await asyncio.sleep(0.05)
                await play(client, port)
            finally:
                stop.set()
                await asyncio.wait_for(serving, 5)

    run(whole())


async def echo(ask: Ask) -> AsyncGenerator[Piece, None]:
    """Two words and a count; the second says which seed."""
    logprobs = {"content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]}
    yield Piece("word ", logprobs=logprobs if ask.body.get("logprobs") else None, completion_tokens=1)
    await asyncio.sleep(0)
    yield Piece(f"{ask.body.get('seed', '-')}", completion_tokens=1)
    yield Piece(finish="length", prompt_tokens=7, completion_tokens=1)


def test_whole_and_streamed_answers_agree() -> None:
    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        assert [m.id async for m in client.models.list()] == ["desk"]
        ask: dict[str, Any] = {"model": "desk", "messages": HI, "n": 3, "seed": 4, "logprobs": True}
        whole = await client.chat.completions.create(**ask)
        assert [c.message.content for c in whole.choices] == ["word 4", "word 5", "word 6"]
        assert [c.finish_reason for c in whole.choices] == ["length"] * 3 and whole.choices[1].logprobs
        assert whole.usage and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 9)
        stream = await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        chunks = [c async for c in stream]
        for i in range(3):
            mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == i]
            assert mine[0].delta.role == "assistant" and not mine[0].delta.content
            assert "".join(c.delta.content or "" for c in mine) == whole.choices[i].message.content
            assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        plain = [c async for c in await client.chat.completions.create(model="desk", messages=HI, stream=True)]
        assert all(c.usage is None for c in plain)

    scene(echo, play)


def test_text_completions_of_several_prompts_count_each_prompt_once() -> None:
    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        made = await client.completions.create(model="desk", prompt=["a", "b"], n=2)
        assert [c.index for c in made.choices] == [0, 1, 2, 3] and made.choices[3].text == "word -"
        assert made.usage and (made.usage.prompt_tokens, made.usage.completion_tokens) == (14, 12)
        parts = [c async for c in await client.completions.create(model="desk", prompt="a", stream=True)]
        assert "".join(p.choices[0].text for p in parts) == "word -" and parts[-1].choices[0].finish_reason == "length"

        with pytest.raises(openai.BadRequestError, match="more than 128 answers"):
            await client.completions.create(model="desk", prompt=["a"] * 65, n=2)

    scene(echo, play)


def test_a_tool_call_in_parts_is_one_call_in_a_whole_answer() -> None:
    async def tools(_: Ask) -> AsyncGenerator[Piece, None]:
        yield Piece(more={"tool_calls": [CALL]})
        yield Piece(more={"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}], "reasoning_content": "so"})
        yield Piece(finish="tool_calls")

    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        made = (await client.chat.completions.create(model="desk", messages=HI)).choices[0]
        assert made.finish_reason == "tool_calls" and made.message.content is None and made.message.tool_calls
        (call,) = made.message.tool_calls
        assert call.type == "function"
        assert (call.id, call.function.name, call.function.arguments) == ("c1", "enter", '{"a":1}')
        assert made.message.model_extra == {"reasoning_content": "so"}
        parts = [c async for c in await client.chat.completions.create(model="desk", messages=HI, stream=True)]
        calls = [c.choices[0].delta.tool_calls for c in parts if c.choices[0].delta.tool_calls]
        assert [c[0].function.arguments for c in calls if c and c[0].function] == ['{"a":', "1}"]

    scene(tools, play)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"messages": []}, "messages must be a list"),
        ({"messages": HI, "n": 0}, "n must be a whole number from 1"),
        ({"messages": HI, "n": True}, "n must be a whole number from 1"),
        ({"messages": HI, "stop": "refuse"}, "no such stop"),
    ],
)
def test_what_cannot_be_answered_is_a_400_in_openais_shape(asked: dict[str, Any], says: str) -> None:
    async def refuse(ask: Ask) -> AsyncGenerator[Piece, None]:
        if ask.body.get("stop") == "refuse":
            raise EngineError(400, "no such stop")
        yield Piece("x", finish="stop")

    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=says):
                await client.chat.completions.create(model="desk", stream=stream, **asked)

    scene(refuse, play)


def test_a_failure_in_mid_stream_is_its_last_event_and_a_crash_is_a_500() -> None:
    async def breaks(ask: Ask) -> AsyncGenerator[Piece, None]:
        if ask.stream:
            yield Piece("begun ")
        raise RuntimeError("out of memory")

    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        text = ""
        with pytest.raises(openai.APIError, match="out of memory"):
            async for c in await client.chat.completions.create(model="desk", messages=HI, stream=True):
                text += c.choices[0].delta.content or ""
        assert text == "begun "
        with pytest.raises(openai.InternalServerError, match="RuntimeError: out of memory"):
            await client.chat.completions.create(model="desk", messages=HI)

    scene(breaks, play)


def test_a_client_that_leaves_ends_all_its_generators_at_once() -> None:
    running: set[int] = set()

    async def endless(_: Ask) -> AsyncGenerator[Piece, None]:
        mine = len(running)
        running.add(mine)
        try:
            yield Piece("x")
            await asyncio.sleep(60)  # a long silence: nothing is written that could fail
        finally:
            running.discard(mine)

    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        for stream in (True, False):
            asked = client.chat.completions.create(model="desk", messages=HI, n=3, stream=stream)
            if stream:
                answer = await asked
                await anext(aiter(answer))
                await asyncio.sleep(0.05)
                assert len(running) == 3
                await answer.close()
            else:
                waiting = asyncio.ensure_future(asked)
                await asyncio.sleep(0.1)
                assert len(running) == 3
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
            async with asyncio.timeout(0.5):
                while running:
                    await asyncio.sleep(0.01)

    scene(endless, play)


def test_an_engine_client_that_cancels_itself_does_not_leave_the_caller_waiting() -> None:
    async def cancelled(_: Ask) -> AsyncGenerator[Piece, None]:
        raise asyncio.CancelledError
        yield Piece()

    async def play(client: openai.AsyncOpenAI, _: int) -> None:
        with pytest.raises(openai.InternalServerError, match="cancelled its answer"):
            await client.chat.completions.create(model="desk", messages=HI)

    scene(cancelled, play)


def test_only_health_is_open_to_those_without_the_key() -> None:
    state = {"up": True}

    async def figures() -> bytes:
        return b"x 1\n"

    async def get(port: int, path: str, key: str = "") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write((head + (f"authorization: Bearer {key}\r\n" if key else "") + "\r\n").encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def play(_: openai.AsyncOpenAI, port: int) -> None:
        assert b" 200 " in await get(port, "/health")
        state["up"] = False
        assert b" 503 " in await get(port, "/health")
        for path in ("/metrics", "/v1/models", "/v1/chat/completions", "/other"):
            assert b" 401 " in await get(port, path) and b" 401 " in await get(port, path, "wrong")
        assert (await get(port, "/metrics", "sesame")).endswith(b"x 1\n")
        assert b" 405 " in await get(port, "/v1/chat/completions", "sesame")
        assert b" 404 " in await get(port, "/other", "sesame")
        thief = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="wrong key"):
            await thief.models.list()
        await thief.close()

    scene(echo, play, healthy=lambda: state["up"], metrics=figures)


def test_an_answer_under_way_is_finished_when_it_is_told_to_stop() -> None:
    async def slow(_: Ask) -> AsyncGenerator[Piece, None]:
        yield Piece("be")
        await asyncio.sleep(0.3)
        yield Piece("gun", finish="stop")

    async def check() -> None:
        port, stop = free_port(), asyncio.Event()
        serving = asyncio.create_task(serve(Front("desk", slow), port, stop))
        await asyncio.sleep(0.05)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0) as client:
            asked = asyncio.ensure_future(client.chat.completions.create(model="desk", messages=HI))
            await asyncio.sleep(0.1)
            stop.set()
            assert (await asked).choices[0].message.content == "begun"
            await asyncio.wait_for(serving, 2)

    run(check())
