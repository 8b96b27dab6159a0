"""The policy in the gateway: nothing it forbids reaches engine, client or record; what is unscanned is not "passed"."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.project.schema import Guard, Rule
from pilothouse.guard.base import Span, Window
from pilothouse.guard.policy import CompiledRule, Policy, compile_policy
from tests.serve.scripted import Wire, ask, chunk, front, run, sse, streamed, whole

SECRET = "swordfish"
REFUSAL = "Not here."


def policy(
    *, on: Sequence[Any] = ("input", "output"), action: Any = "block", terms: Sequence[str] = (SECRET,)
) -> Policy:
    rule = Rule(detector="banned", on=tuple(on), action=action, options={"terms": list(terms)})
    return compile_policy(Guard(rules=(rule,), refusal=REFUSAL))


def replies(*pieces: str) -> Any:
    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request.get("stream"):
            await wire.stream(streamed(list(pieces)))
        else:
            await wire.json(whole("".join(pieces)))

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_request_is_answered_well_formed_and_never_asked(stream: bool) -> None:
    async def check() -> None:
        async with front(replies("x"), policy=policy()) as f:
            got = await f.post(ask(f"say {SECRET} now", stream=stream))
            assert got.status == 200 and f.engine.requests == []
            answer = got.events[0] if stream else got.json
            choice = answer["choices"][0]
            assert choice["finish_reason"] == "content_filter"
            assert (choice["delta"] if stream else choice["message"])["content"] == REFUSAL
            (e,) = await f.recorded()
            assert answer["pilothouse"] == {"guard": "banned", "category": "banned", "decision_id": e.id}
            assert (e.guard, e.request) == ("blocked", None) and SECRET not in repr(e)
            if stream:
                assert got.events[-1] == "[DONE]"
            text = (await f.get("/metrics")).body.decode()
            assert 'pilothouse_guard_decisions_total{decision="blocked",detector="banned"} 1.0' in text

    run(check())


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": f"I say {SECRET}"},
        {"role": "user", "content": [{"type": "text", "text": f"say {SECRET}"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": SECRET}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": SECRET}},
        {"role": "assistant", "content": "", "reasoning_content": SECRET},
    ],
)
def test_no_role_and_no_part_of_a_message_hides_a_text(message: dict[str, Any]) -> None:
    async def check() -> None:
        async with front(replies("x"), policy=policy()) as f:
            await f.post({"model": "desk", "messages": [message, {"role": "user", "content": "go"}]})
            assert f.engine.requests == [] and (await f.recorded())[0].guard == "blocked"

    run(check())


def test_an_image_is_not_called_passed() -> None:
    async def check() -> None:
        async with front(replies("x"), policy=policy()) as f:
            parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
            await f.post({"model": "desk", "messages": [{"role": "user", "content": parts}]})
            assert (await f.recorded())[0].guard == "unscanned"

    run(check())


def test_a_redacted_request_is_what_engine_and_record_get() -> None:
    async def check() -> None:
        async with front(replies("fine"), policy=policy(action="redact")) as f:
            assert (await f.post(ask(f"my {SECRET} here"))).status == 200
            (e,) = await f.recorded()
            assert SECRET not in repr(f.engine.requests) and SECRET not in repr(e)
            assert f.engine.requests[0]["messages"][1]["content"] == "my [BANNED] here" and e.guard == "redacted"

    run(check())


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_answer_ends_well_formed_and_the_engine_is_stopped(stream: bool) -> None:
    async def check() -> None:
        async with front(replies("It is sword", "fish, and more", " and more"), policy=policy()) as f:
            got = await f.post(ask(stream=stream))
            assert SECRET not in got.body.decode() and "and more" not in got.body.decode()
            (e,) = await f.recorded()
            assert e.guard == "blocked" and SECRET not in repr(e) and e.findings
            if stream:
                assert got.events[-1] == "[DONE]" and got.text() == f"It is {REFUSAL}"
                last = got.events[-2]
                assert last["choices"][0]["finish_reason"] == "content_filter"
                assert last["pilothouse"]["guard"] == "banned" and last["pilothouse"]["decision_id"] == e.id
            else:
                choice = got.json["choices"][0]
                assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", REFUSAL)
                assert got.json["pilothouse"]["guard"] == "banned"

    run(check())


def test_an_endless_stream_is_cut_off_at_the_engine() -> None:
    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        while True:
            await wire.piece(sse(chunk({"content": f"{SECRET} "})))

    async def check() -> None:
        async with front(script, policy=policy()) as f:
            got = await f.post(ask(stream=True))
            assert got.events[-1] == "[DONE]" and got.whole

    run(check())


ANSWER = f"A {SECRET}, sword fish, swordf and {SECRET.upper()} é 日本. Swordfis"
CLEAN = "A [BANNED], sword fish, swordf and [BANNED] é 日本. Swordfis"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=25), st.lists(st.integers(0, 4000), max_size=25))
def test_every_cutting_of_text_and_of_bytes_gives_the_same_answer(texts: list[int], reads: list[int]) -> None:
    """The text cut into any deltas, the event stream cut into any reads: always redact(whole answer)."""
    at = sorted({0, len(ANSWER), *texts})
    data = b"".join(streamed([ANSWER[a:b] for a, b in itertools.pairwise(at)]))
    borders = sorted({0, len(data), *(min(r, len(data)) for r in reads)})
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream(pieces)

    async def check() -> None:
        async with front(script, policy=policy(action="redact", on=("output",))) as f:
            got = await f.post(ask(stream=True))
            assert got.text() == CLEAN and got.events[-1] == "[DONE]"
            (e,) = await f.recorded()
            assert (e.answer, e.guard) == (CLEAN, "redacted")

    run(check())


def test_choices_tool_arguments_and_reasoning_are_streams_of_their_own() -> None:
    def call(arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}

    events = [
        chunk({"content": "sword"}, index=0),
        chunk({"content": "fish is no word across choices"}, index=1),
        chunk({"reasoning_content": "sword"}, index=0),
        chunk(call('{"q": "sword'), index=0),
        chunk({"content": " and shield"}, index=0),
        chunk({"reasoning_content": "fish!"}, index=0),
        chunk(call('fish"}'), index=0),
        chunk({}, "stop", index=0),
        chunk({}, "stop", index=1),
    ]

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream([*map(sse, events), b"data: [DONE]\n\n"])

    async def check() -> None:
        async with front(script, policy=policy(action="redact")) as f:
            got = await f.post(ask(stream=True, n=2))
            deltas = [c["delta"] for e in got.events[:-1] for c in e["choices"]]
            assert got.text(0) == "sword and shield" and got.text(1) == "fish is no word across choices"
            assert "".join(d.get("reasoning_content", "") for d in deltas) == "[BANNED]!"
            calls = [c["function"]["arguments"] for d in deltas for c in d.get("tool_calls", [])]
            assert "".join(calls) == '{"q": "[BANNED]"}'

    run(check())


def test_a_block_in_one_choice_ends_all_and_shows_nothing_more() -> None:
    both = chunk({"content": "fine"}, index=0)
    both["choices"].append({"index": 1, "delta": {"content": f"{SECRET} "}, "finish_reason": None})
    both["choices"].append({"index": 2, "delta": {"content": f"late {SECRET}"}, "finish_reason": None})

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream([sse(chunk({"content": "so "}, index=0)), sse(both), b"data: [DONE]\n\n"])

    async def check() -> None:
        async with front(script, policy=policy()) as f:
            got = await f.post(ask(stream=True, n=3))
            assert SECRET not in got.body.decode() and got.text(1) == REFUSAL
            ends = {c["index"] for e in got.events[:-1] for c in e["choices"] if c["finish_reason"]}
            assert {0, 1} <= ends and got.events[-1] == "[DONE]"

    run(check())


def test_logprobs_and_unknown_fields_do_not_spell_out_what_was_cut() -> None:
    spelt = {"content": [{"token": t, "logprob": -0.1, "top_logprobs": []} for t in ("sword", "fish")]}

    async def script(request: dict[str, Any], wire: Wire) -> None:
        if request.get("stream"):
            events = [chunk({"content": "sword"}), chunk({"content": "fish"}), chunk({}, "stop")]
            for event, token in zip(events, ("sword", "fish"), strict=False):
                event["choices"][0]["logprobs"] = {"content": [{"token": token}]}
                event["choices"][0]["token_text"] = token
                event["__verbose"] = {"content": SECRET, "n": 1}
            events[0]["choices"][0]["delta"]["thoughts"] = SECRET
            await wire.stream([*map(sse, events), b"data: [DONE]\n\n"])
        else:
            import json

            body = json.loads(whole(SECRET, thoughts=SECRET))
            body["choices"][0]["logprobs"] = spelt
            body["__verbose"] = {"content": SECRET, "n": 1}
            await wire.json(json.dumps(body).encode())

    async def check() -> None:
        async with front(script, policy=policy(action="redact")) as f:
            for stream in (False, True):
                text = (await f.post(ask(stream=stream, logprobs=True))).body.decode()
                assert "[BANNED]" in text and "fish" not in text and "thoughts" not in text

    run(check())


def test_text_after_an_end_and_a_stream_that_never_ends_its_choice() -> None:
    async def after(_: dict[str, Any], wire: Wire) -> None:
        late = [chunk({"content": "sword"}, "stop"), chunk({"content": SECRET})]
        await wire.stream([*map(sse, late), b"data: [DONE]\n\n"])

    async def never(_: dict[str, Any], wire: Wire) -> None:
        await wire.stream([sse(chunk({"content": "my sword"})), sse(chunk({"content": "fish"})), b"data: [DONE]\n\n"])

    async def check() -> None:
        async with front(after, policy=policy(action="redact")) as f:
            assert (await f.post(ask(stream=True))).text() == "sword"
        async with front(never, policy=policy(action="redact")) as f:
            assert (await f.post(ask(stream=True))).text() == "my [BANNED]"
        async with front(never, policy=policy()) as f:
            got = await f.post(ask(stream=True))
            assert got.text() == f"my {REFUSAL}" and got.events[-1] == "[DONE]"
            assert got.events[-2]["choices"][0]["finish_reason"] == "content_filter"
            assert (await f.recorded())[0].guard == "blocked"

    run(check())


class Broken:
    """A detector that fails."""

    name, cost, directions, owasp, stream = "broken", "micro", ("input", "output"), (), Window(10, 1)

    def inspect(self, text: str) -> Sequence[Span]:
        raise RuntimeError("no model")


@pytest.mark.parametrize("on", ["input", "output"])
@pytest.mark.parametrize("leaves", [False, True])
def test_what_no_detector_could_read_is_never_recorded_as_passed(on: Any, leaves: bool) -> None:
    rule = Rule(detector="broken", on=(on,), action="flag", on_error="open")
    broken = Policy([CompiledRule(0, rule, Broken())], REFUSAL)  # type: ignore[arg-type]

    async def script(_: dict[str, Any], wire: Wire) -> None:
        await wire.begin()
        await wire.piece(sse(chunk({"content": "a long enough answer"})))
        if leaves:
            wire.die()
            return
        await wire.piece(sse(chunk({}, "stop")) + b"data: [DONE]\n\n")
        wire.writer.write(b"0\r\n\r\n")

    async def check() -> None:
        async with front(script, policy=broken) as f:
            assert "long enough" in (await f.post(ask(stream=True))).text()
            assert (await f.recorded())[0].guard == "unscanned"

    run(check())


def test_a_clean_exchange_is_passed_and_without_a_policy_off() -> None:
    async def check() -> None:
        for guard, said in ((policy(), "passed"), (None, "off")):
            async with front(replies("fine"), policy=guard) as f:
                for stream in (False, True):
                    await f.post(ask(stream=stream))
                assert {e.guard for e in await f.recorded(2)} == {said}

    run(check())
