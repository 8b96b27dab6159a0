"""From Anthropic's request for a message to one for a chat answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pilothouse.serve.gateway.dialects._messages_shape import (
    FOREIGN,
    AssistantMessage,
    Base64Source,
    ChooseAny,
    ChooseAuto,
    ChooseNone,
    ChooseTool,
    ImageBlock,
    MessageRequest,
    MessageTool,
    SystemBlock,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ThinkingOff,
    ThinkingOn,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    UserMessage,
)
from pilothouse.serve.gateway.dialects._shape import convert, foreign, further, given, unsupported

_NOT_HERE = {
    "container": "there are no containers here",
    "mcp_servers": "no tool servers are called from here; run the tools and send tool_result blocks",
}


def to_chat(asked: dict[str, Any]) -> dict[str, Any]:
    """The chat body; ApiError(400) for what has no meaning or cannot be done here."""
    for field, why in _NOT_HERE.items():
        if asked.get(field):
            raise unsupported(field, why)
    for i, tool in enumerate(tools if isinstance(tools := asked.get("tools"), list) else []):
        if isinstance(tool, dict) and tool.get("type") not in (None, "custom"):
            raise unsupported(f"tools[{i}].type", f"{tool['type']!r} is run by no server here; only custom tools are")
    foreign(asked, FOREIGN, "/v1/messages")
    request = convert(asked, MessageRequest)
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _joined(request.system)})
    for message in request.messages:
        messages += _messages(message)
    choice, parallel = _choice(request)
    return {
        **further(asked, MessageRequest),
        "model": request.model,
        "messages": messages,
        "max_tokens": request.max_tokens,
        **_thinking(request, asked),
        **given(
            stream=request.stream,
            tools=[_tool(t) for t in request.tools] if request.tools else None,
            tool_choice=choice,
            parallel_tool_calls=parallel,
            stop=request.stop_sequences or None,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            reasoning_effort=request.output_config.effort if request.output_config else None,
            response_format=_format(request),
            user=request.metadata.user_id if request.metadata else None,
        ),
    }


def _messages(message: UserMessage | AssistantMessage | SystemMessage) -> list[dict[str, Any]]:
    if isinstance(message, SystemMessage):
        return [{"role": "system", "content": _joined(message.content)}]
    if isinstance(message, AssistantMessage):
        said_before = message.content
        return [{"role": "assistant", "content": said_before} if isinstance(said_before, str) else _turn(said_before)]
    content = message.content
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results = [_result(b) for b in content if isinstance(b, ToolResultBlock)]
    said = [b for b in content if isinstance(b, TextBlock | ImageBlock)]
    return [*results, {"role": "user", "content": _content(said)}] if said else results


def _turn(blocks: list[TextBlock | ThinkingBlock | ToolUseBlock]) -> dict[str, Any]:
    """One turn: what was thought, said and called. Our own answers may say it in several blocks; they join."""
    said = [b.text for b in blocks if isinstance(b, TextBlock)]
    thought = [b.thinking for b in blocks if isinstance(b, ThinkingBlock)]
    calls = [_call(b) for b in blocks if isinstance(b, ToolUseBlock)]
    content = "".join(said) if said or not calls else None
    return {
        "role": "assistant",
        "content": content,
        **given(reasoning_content="".join(thought) or None, tool_calls=calls or None),
    }


def _call(block: ToolUseBlock) -> dict[str, Any]:
    function = {"name": block.name, "arguments": msgspec.json.encode(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    """A tool's message. The chat form has no mark for a failed call: the text says it."""
    content = _content(block.content) if isinstance(block.content, list) else block.content or ""
    if block.is_error:
        mark = "Error: "
        content = mark + content if isinstance(content, str) else [{"type": "text", "text": mark}, *content]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _content(blocks: list[TextBlock | ImageBlock]) -> str | list[dict[str, Any]]:
    """Text as one string, as every chat template takes it; parts only where an image is among them."""
    texts = [b for b in blocks if isinstance(b, TextBlock)]
    return _joined(texts) if len(texts) == len(blocks) else [_part(b) for b in blocks]


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    match block:
        case TextBlock(text):
            return {"type": "text", "text": text}
        case ImageBlock(Base64Source(media_type, data)):
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case ImageBlock(UrlSource(url)):
            return {"type": "image_url", "image_url": {"url": url}}
    raise AssertionError(block)


def _joined(text: str | Sequence[TextBlock | SystemBlock]) -> str:
    return text if isinstance(text, str) else "\n".join(b.text for b in text)


def _tool(tool: MessageTool) -> dict[str, Any]:
    function = {"name": tool.name, "parameters": tool.input_schema}
    return {"type": "function", "function": {**function, **given(description=tool.description, strict=tool.strict)}}


def _choice(request: MessageRequest) -> tuple[Any, bool | None]:
    """The choice, and False where calls must not come at once."""
    choice = request.tool_choice
    if choice is None or isinstance(choice, ChooseNone):
        return (None if choice is None else "none"), None
    one = False if choice.disable_parallel_tool_use else None
    match choice:
        case ChooseAuto():
            return "auto", one
        case ChooseAny():
            return "required", one
        case ChooseTool(name):
            return {"type": "function", "function": {"name": name}}, one


def _thinking(request: MessageRequest, asked: dict[str, Any]) -> dict[str, Any]:
    """Whether to think, as chat templates are told it; the budget, as llama.cpp is. The caller's own words win."""
    thinking = request.thinking
    if thinking is None:
        return {}
    kwargs = asked.get("chat_template_kwargs")
    named = kwargs if isinstance(kwargs, dict) else {}
    told: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": not isinstance(thinking, ThinkingOff), **named}}
    if isinstance(thinking, ThinkingOn):
        told["thinking_budget_tokens"] = thinking.budget_tokens
    return told


def _format(request: MessageRequest) -> dict[str, Any] | None:
    form = request.output_config.format if request.output_config else None
    if form is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema}}
