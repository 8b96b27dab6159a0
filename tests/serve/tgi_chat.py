"""TGI's chat over its own generate: the template, tools as a grammar, and what a stream says of a call as it comes.

router/src/lib.rs (try_into_generate), infer/tool_grammar.rs, infer/chat_template.rs and chat.rs of TGI 3.3 say how.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.serve import tgi_shapes as shape
from tests.serve.tgi_generate import InferError

FINGERPRINT = "3.3.6-dev0-native"
_TOOL_PROMPT = "\nAnswer with JSON that calls one of these functions.\n"  # TGI says it in more words


def generate_of(asked: shape.ChatRequest, ask: Callable[[str, Any], Any]) -> tuple[shape.GenerateRequest, bool]:
    """The request for generate, and whether it is a tool call. ask: llama.cpp, which has the chat template."""
    if asked.response_format is not None and asked.tools is not None:
        raise InferError("Tool error: Grammar and tools are mutually exclusive", "tool_error", 422)
    messages = [{"role": m["role"], "content": shape.message_text(m)} for m in asked.messages]
    grammar, tools = asked.response_format, _tools(asked)
    if tools:
        grammar = shape.JsonGrammar(_schema(tools))
        listed = json.dumps([msgspec.to_builtins(tool) for tool in tools])
        messages[-1]["content"] += f"\n---\n{listed}\n{asked.tool_prompt or _TOOL_PROMPT}"
    # The first message may say which: SmolLM2's template adds its own system prompt otherwise, as it does in TGI.
    inputs = ask("/apply-template", {"messages": messages})["prompt"]
    p = shape.GenerateParameters(
        temperature=asked.temperature or None,
        repetition_penalty=None if asked.presence_penalty is None else asked.presence_penalty + 2,
        frequency_penalty=asked.frequency_penalty,
        top_p=asked.top_p,
        do_sample=asked.temperature != 0,
        max_new_tokens=asked.max_tokens,
        stop=asked.stop or [],
        details=True,
        seed=asked.seed,
        top_n_tokens=asked.top_logprobs,
        grammar=grammar,
        adapter_id=None if asked.model == "tgi" else asked.model,
    )
    return shape.GenerateRequest(inputs, p), bool(tools)


def _tools(asked: shape.ChatRequest) -> list[shape.Tool]:
    tools, choice = asked.tools or [], asked.tool_choice
    if not tools or choice == "none":
        return []
    if choice in ("auto", None):
        about = "Open ended response with no specific tool selected"
        return [*tools, shape.Tool("function", shape.FunctionDefinition("no_tool", {"type": "object"}, about))]
    if choice == "required":
        return tools
    name = choice if isinstance(choice, str) else choice["function"]["name"]
    found = [tool for tool in tools if tool.function.name == name]
    if not found:
        raise InferError(f"Tool error: Tool with name {name} not found", "tool_error", 422)
    return found


def _schema(tools: list[shape.Tool]) -> dict[str, Any]:
    options = []
    for tool in tools:
        given = tool.function.arguments
        named = {"_name": {"type": "string", "const": tool.function.name}}
        options.append(
            {
                "type": "object",
                "properties": {**named, **given.get("properties", {})},
                "required": ["_name", *given.get("required", [])],
                "additionalProperties": False,
            }
        )
    return {
        "type": "object",
        "properties": {"function": {"anyOf": options}},
        "required": ["function"],
        "additionalProperties": False,
    }


def chat_answer(
    asked: shape.ChatRequest, made: shape.GenerateResponse, tools: bool, model: str, prompt: int
) -> shape.ChatCompletion:
    """The whole answer (ChatCompletion::new)."""
    d = made.details
    assert isinstance(d, shape.Details)
    message = shape.OutputMessage("assistant", content=made.generated_text)
    if tools:
        arguments = json.loads(made.generated_text)["function"]
        name = arguments.pop("_name")
        call = shape.ToolCall("0", "function", shape.CalledFunction(name, json.dumps(arguments)))
        message = shape.OutputMessage("assistant", tool_calls=[call])
    logprobs = None
    if asked.logprobs:
        tops = d.top_tokens if isinstance(d.top_tokens, list) else [[] for _ in d.tokens]
        logprobs = shape.ChatCompletionLogprobs([_logprob(t, top) for t, top in zip(d.tokens, tops, strict=True)])
    choice = shape.ChatCompletionComplete(0, message, _reason(d.finish_reason), logprobs)
    usage = shape.Usage(prompt, d.generated_tokens, prompt + d.generated_tokens)
    return shape.ChatCompletion("", int(time.time()), model, FINGERPRINT, [choice], usage)


def chat_events(
    asked: shape.ChatRequest,
    events: Iterator[shape.StreamResponse],
    tools: bool,
    model: str,
    again: Callable[[], Iterator[shape.StreamResponse]],
) -> Iterator[shape.ChatCompletionChunk]:
    """The stream (ChatState::push). again: the answer without tools, begun when the model has called none."""
    state, text = ("buffering" if tools else "content"), ""
    for event in events:
        d, token = event.details, event.token
        said, name = token.text, None
        shown = state == "content"
        if state == "buffering":
            text += said
            call = _call(text.rstrip().rstrip(", }\n\t") + "}}")
            if call is not None:
                if call == "no_tool":
                    yield from chat_events(asked, again(), False, model, again)
                    return
                state, shown, said, name = "tool", True, "{", call
        elif state == "tool":
            text += said
            shown = True
            if _call(text) is not None:
                state, said = "buffering", said.rstrip().removesuffix("}")
        if shown:
            delta = shape.ChatCompletionDelta("assistant", content="" if token.special else said)
            if tools and not token.special:
                function = shape.Function(said, name)
                delta = shape.ChatCompletionDelta(
                    "assistant", tool_calls=[shape.DeltaToolCall(0, "0", "function", function)]
                )
            tops = event.top_tokens if isinstance(event.top_tokens, list) else []
            logprobs = shape.ChatCompletionLogprobs([_logprob(token, tops)]) if asked.logprobs else None
            reason = None if d is None else _reason(d.finish_reason)
            yield _chunk(model, [shape.ChatCompletionChoice(0, delta, logprobs, reason)])
        if d is not None and asked.stream_options.include_usage:
            total = d.input_length + d.generated_tokens
            yield _chunk(model, [], shape.Usage(d.input_length, d.generated_tokens, total))


def _chunk(
    model: str, choices: list[shape.ChatCompletionChoice], usage: shape.Usage | None = None
) -> shape.ChatCompletionChunk:
    return shape.ChatCompletionChunk("", int(time.time()), model, FINGERPRINT, choices, usage)


def _call(text: str) -> str | None:
    try:
        name = json.loads(text)["function"]["_name"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(name)


def _logprob(token: shape.Token, tops: list[shape.Token]) -> shape.ChatCompletionLogprob:
    shown = [shape.ChatCompletionTopLogprob(t.text, t.logprob or 0.0) for t in tops]
    return shape.ChatCompletionLogprob(token.text, token.logprob or 0.0, shown)


def _reason(reason: str) -> str:
    return "stop" if reason == "eos_token" else reason
