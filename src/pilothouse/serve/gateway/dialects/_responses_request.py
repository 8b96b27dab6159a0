"""From a request for a response to one for a chat answer."""

from __future__ import annotations

from typing import Any

from pilothouse.serve.gateway.dialects._responses_shape import (
    FOREIGN,
    Allowed,
    CallItem,
    CallOutputItem,
    FunctionTool,
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    Item,
    JsonFormat,
    MessageItem,
    OneFunction,
    OutputText,
    Part,
    ReasoningItem,
    Refusal,
    ResponseRequest,
    SchemaFormat,
)
from pilothouse.serve.gateway.dialects._shape import convert, foreign, further, given, invalid, needs, unsupported
from pilothouse.serve.gateway.errors import ApiError

_NOTHING_KEPT = "no response is kept here; send the whole conversation as input"
_REFUSED = {
    "previous_response_id": _NOTHING_KEPT,
    "conversation": _NOTHING_KEPT,
    "prompt": "no prompt templates are kept here; send instructions and input",
    "background": "an answer is made while its caller waits",
}


def to_chat(asked: dict[str, Any]) -> dict[str, Any]:
    """The chat body; ApiError(400) for what has no meaning or cannot be done here."""
    for field, why in _REFUSED.items():
        if asked.get(field) not in (None, False):
            raise unsupported(field, why)
    if asked.get("truncation") == "auto":
        raise unsupported("truncation", "nothing is cut from a conversation here; send what fits")
    foreign(asked, FOREIGN, "/v1/responses")
    request = convert(asked, ResponseRequest)
    needs(asked, "stream_options", "stream")
    messages = _Conversation(request.instructions)
    for item in _items(request.input):
        messages.add(item)
    tools, choice = _tools(request)
    wants_logprobs = bool(request.top_logprobs) or "message.output_text.logprobs" in (request.include or ())
    return {
        **further(asked, ResponseRequest),
        "model": request.model,
        "messages": messages.end(),
        **given(
            stream=request.stream,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=request.parallel_tool_calls,
            max_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            logprobs=wants_logprobs or None,
            top_logprobs=request.top_logprobs or None,
            reasoning_effort=request.reasoning.effort if request.reasoning else None,
            response_format=_format(request),
            verbosity=request.text.verbosity if request.text else None,
            user=request.user,
        ),
    }


def _items(given_input: Any) -> list[Item]:
    if isinstance(given_input, str):
        return [MessageItem("user", given_input)]
    if not isinstance(given_input, list) or not given_input:
        raise invalid("input", "expected text or a list with at least one item")
    typed = []
    for i, item in enumerate(given_input):
        if not isinstance(item, dict):
            raise invalid(f"input[{i}]", "expected `object`")
        if item.get("type") == "item_reference":
            raise unsupported(f"input[{i}]", _NOTHING_KEPT)
        if item.get("encrypted_content") is not None:
            raise unsupported(f"input[{i}].encrypted_content", "thoughts another service encrypted cannot be read here")
        typed.append(item if "type" in item else {**item, "type": "message"})
    return convert(typed, list[Item], "input")


class _Conversation:
    """Items become messages: what the assistant thought, said and called in one turn is one message."""

    def __init__(self, instructions: str | None) -> None:
        self._messages: list[dict[str, Any]] = []
        self._thought: list[str] = []
        if instructions:
            self._messages.append({"role": "system", "content": instructions})

    def add(self, item: Item) -> None:
        """The next item."""
        match item:
            case MessageItem("assistant", content):
                self._say(content)
            case MessageItem(role, content):
                self._close()
                self._messages.append({"role": role, "content": _content(content)})
            case CallItem(call_id, name, arguments):
                call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                self._turn().setdefault("tool_calls", []).append(call)
            case CallOutputItem(call_id, output):
                self._close()
                self._messages.append({"role": "tool", "tool_call_id": call_id, "content": _content(output)})
            case ReasoningItem(summary, content):
                self._thought += [t.text for t in content or summary or ()]

    def end(self) -> list[dict[str, Any]]:
        """All messages."""
        self._close()
        return self._messages

    def _say(self, content: str | list[Part]) -> None:
        message = self._turn()
        if message["content"] is not None or "refusal" in message:
            message = {"role": "assistant", "content": None}
            self._messages.append(message)
        refused = "".join(p.refusal for p in content if isinstance(p, Refusal)) if isinstance(content, list) else ""
        said: str | list[Part] = (
            [p for p in content if not isinstance(p, Refusal)] if isinstance(content, list) else content
        )
        message["content"] = _content(said, "") if said or not refused else None
        if refused:
            message["refusal"] = refused

    def _turn(self) -> dict[str, Any]:
        """The assistant's turn that is still open, with what was thought before."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": None})
        message = self._messages[-1]
        if self._thought:
            known = [message["reasoning_content"]] if "reasoning_content" in message else []
            message["reasoning_content"] = "\n".join([*known, *self._thought])
            self._thought = []
        return message

    def _close(self) -> None:
        if self._thought:
            message = self._turn()
            message["content"] = message["content"] or ""


def _content(content: str | list[Part], joint: str = "\n") -> str | list[dict[str, Any]]:
    """Text as one string, as every chat template takes it; parts only where something else is among them."""
    if isinstance(content, str):
        return content
    texts = [p.text for p in content if isinstance(p, InputText | OutputText)]
    return joint.join(texts) if len(texts) == len(content) else [_part(p) for p in content]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case InputText(text) | OutputText(text):
            return {"type": "text", "text": text}
        case Refusal(refusal):
            return {"type": "refusal", "refusal": refusal}
        case InputImage(url, detail):
            return {"type": "image_url", "image_url": {"url": url, **given(detail=detail)}}
        case InputFile(data, filename):
            return {"type": "file", "file": {"file_data": data, **given(filename=filename)}}
        case InputAudio(sound):
            return {"type": "input_audio", "input_audio": {"data": sound.data, "format": sound.format}}


def _tools(request: ResponseRequest) -> tuple[list[dict[str, Any]] | None, Any]:
    """Tools and choice. A choice among some tools is said by leaving out the others, which every engine understands."""
    tools, choice = request.tools, request.tool_choice
    if isinstance(choice, Allowed):
        names = {t.name for t in choice.tools}
        if missing := names - {t.name for t in tools or ()}:
            what = f"tool_choice.tools: tools has none called {', '.join(sorted(missing))}"
            raise ApiError(404, "tool_not_found", what, param="tool_choice.tools")
        return [_tool(t) for t in tools or () if t.name in names], choice.mode
    if isinstance(choice, OneFunction):
        return [_tool(t) for t in tools or ()], {"type": "function", "function": {"name": choice.name}}
    return [_tool(t) for t in tools] if tools else None, choice


def _tool(tool: FunctionTool) -> dict[str, Any]:
    described = given(description=tool.description, parameters=tool.parameters, strict=tool.strict)
    return {"type": "function", "function": {"name": tool.name, **described}}


def _format(request: ResponseRequest) -> dict[str, Any] | None:
    match request.text.format if request.text else None:
        case JsonFormat():
            return {"type": "json_object"}
        case SchemaFormat(name, schema, description, strict):
            described = given(description=description, strict=strict)
            return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **described}}
    return None
