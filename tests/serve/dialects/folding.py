"""What a client makes of a stream: events folded into one answer, each checked against the real client's types."""

from __future__ import annotations

import json
from typing import Any, get_args

from anthropic.types import RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel


def _by_type(union: Any) -> dict[str, type[BaseModel]]:
    members = get_args(get_args(union)[0])
    return {get_args(m.model_fields["type"].annotation)[0]: m for m in members}


RESPONSE_EVENTS = _by_type(ResponseStreamEvent)
MESSAGE_EVENTS = _by_type(RawMessageStreamEvent)


def fold_chat(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Message, reason and usage of a chat stream."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    got: dict[str, Any] = {"finish": None, "usage": None}
    for event in events:
        ChatCompletionChunk.model_validate(event)
        got["usage"] = event.get("usage") or got["usage"]
        got["pilothouse"] = event.get("pilothouse") or got.get("pilothouse")
        for choice in event["choices"]:
            got["finish"] = choice["finish_reason"] or got["finish"]
            for field, value in choice["delta"].items():
                if field == "tool_calls":
                    for part in value:
                        known = calls.setdefault(part["index"], {"name": part["function"].get("name"), "arguments": ""})
                        known["arguments"] += part["function"]["arguments"]
                elif field != "role" and value:
                    message[field] = message.get(field, "") + value
    return {**got, "message": message, "calls": [calls[i] for i in sorted(calls)]}


def fold_completions(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Text, reason, logprobs and usage of a stream of completions."""
    got: dict[str, Any] = {"text": "", "finish": None, "usage": None, "tokens": [], "offsets": []}
    for event in events:
        loose = {**event, "choices": [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in event["choices"]]}
        Completion.model_validate(loose)  # its type knows no running choice; its client does
        got["usage"] = event.get("usage") or got["usage"]
        got["pilothouse"] = event.get("pilothouse") or got.get("pilothouse")
        for choice in event["choices"]:
            got["text"] += choice["text"]
            got["finish"] = choice["finish_reason"] or got["finish"]
            if choice["logprobs"]:
                got["tokens"] += choice["logprobs"]["tokens"]
                got["offsets"] += choice["logprobs"]["text_offset"]
    return got


def fold_response(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response of the last event, once the events before it have told the same."""
    items: dict[int, dict[str, Any]] = {}
    done: dict[int, dict[str, Any]] = {}
    for number, event in enumerate(events):
        RESPONSE_EVENTS[event["type"]].model_validate(event)
        assert event["sequence_number"] == number
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items[event["output_index"]] = json.loads(json.dumps(event["item"]))
        elif kind == "content_part.added":
            parts = items[event["output_index"]]["content"]
            assert event["content_index"] == len(parts)
            parts.append(event["part"])
        elif kind == "function_call_arguments.delta":
            items[event["output_index"]]["arguments"] += event["delta"]
        elif kind.endswith(".delta"):
            part = items[event["output_index"]]["content"][event["content_index"]]
            part["refusal" if kind.startswith("refusal") else "text"] += event["delta"]
            part.get("logprobs", []).extend(event.get("logprobs", []))
        elif kind == "output_item.done":
            done[event["output_index"]] = event["item"]
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    last: dict[str, Any] = events[-1]["response"]
    assert events[-1]["type"] == f"response.{last['status']}"
    told = [{**item, "status": None} for item in items.values()]
    assert told == [{**item, "status": None} for item in last["output"]]
    assert list(done.values()) == last["output"]
    return last


def fold_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events tell; blocks must come one after another."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    open_ = -1
    for event in events:
        if event["type"] != "ping":
            MESSAGE_EVENTS[event["type"]].model_validate(event)
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert open_ == -1 and event["index"] == len(message["content"])
                open_ = event["index"]
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_
                block, delta = message["content"][open_], dict(event["delta"])
                if delta.pop("type") == "input_json_delta":
                    inputs[open_] = inputs.get(open_, "") + delta["partial_json"]
                else:
                    ((field, text),) = delta.items()
                    block[field] += text
            case "content_block_stop":
                if open_ in inputs:
                    message["content"][open_]["input"] = json.loads(inputs[open_])
                open_ = -1
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
                message |= {"pilothouse": event["pilothouse"]} if "pilothouse" in event else {}
    assert open_ == -1 and events[-1]["type"] == "message_stop"
    return message
