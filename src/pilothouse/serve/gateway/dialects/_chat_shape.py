"""What `/v1/chat/completions` takes: OpenAI's fields by type, roles with what each must say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from pilothouse.serve.gateway.dialects._shape import (
    Alternatives,
    Name,
    Sampling,
    Tokens,
    needs_schema,
)

PART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type"],
    "anyOf": [
        {"properties": {"type": {"const": "text"}, "text": {"type": "string"}}, "required": ["text"]},
        {"properties": {"type": {"type": "string", "not": {"const": "text"}}}},
    ],
}
Parts = Annotated[list[Annotated[dict[str, Any], Meta(extra_json_schema=PART_SCHEMA)]], Meta(min_length=1)]
"""Parts of a content. Kinds besides text are the engine's business; the guard is told of them."""


class Called(Struct):
    """A function and what it is called with. Arguments are text, always: no guard reads anything else."""

    name: Name
    arguments: str


class ToolCall(Struct):
    """A call the assistant made."""

    function: Called
    id: str | None = None
    type: Literal["function"] = "function"


class System(Struct, tag_field="role", tag="system"):
    """Instructions."""

    content: str | Parts


class Developer(Struct, tag_field="role", tag="developer"):
    """Instructions, under their newer name."""

    content: str | Parts


class User(Struct, tag_field="role", tag="user"):
    """What a person says."""

    content: str | Parts
    name: str | None = None


class Assistant(Struct, tag_field="role", tag="assistant"):
    """What was answered before, in words or in calls."""

    content: str | Parts | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | None = None
    function_call: Called | None = None


class Tool(Struct, tag_field="role", tag="tool"):
    """What a tool gave back."""

    content: str | Parts
    tool_call_id: str | None = None


class Function(Struct, tag_field="role", tag="function"):
    """What a tool gave back, under its older name."""

    content: str | None
    name: Name


class Definition(Struct):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Struct):
    """A tool. Functions only: nothing else an answer may call could be read by the guard."""

    function: Definition
    type: Literal["function"]


class Named(Struct):
    """A function by name."""

    name: Name


class ChooseFunction(Struct, tag_field="type", tag="function"):
    """This one must be called."""

    function: Named


class AllowedTools(Struct):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ChooseAmong(Struct, tag_field="type", tag="allowed_tools"):
    """One of these may or must be called."""

    allowed_tools: AllowedTools


class Schema(Struct):
    """A schema for the answer."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class AsText(Struct, tag_field="type", tag="text"):
    """Free text."""


class AsJson(Struct, tag_field="type", tag="json_object"):
    """Any JSON object (some engines take a schema with it)."""

    schema: dict[str, Any] | None = None


class AsSchema(Struct, tag_field="type", tag="json_schema"):
    """JSON by a schema."""

    json_schema: Schema


class AsStructure(Struct, tag_field="type", tag="structural_tag"):
    """vLLM's own."""


Message = System | Developer | User | Assistant | Tool | Function


class ChatRequest(Sampling, kw_only=True):
    """A request for a chat answer."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChooseFunction | ChooseAmong | None = None
    parallel_tool_calls: bool | None = None
    response_format: AsText | AsJson | AsSchema | AsStructure | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None


RULES: dict[str, list[dict[str, Any]]] = {
    "ChatRequest": [needs_schema("stream_options", "stream"), needs_schema("top_logprobs", "logprobs")],
    "Assistant": [
        {
            "anyOf": [
                {"properties": {"content": {"type": ["string", "array"]}}, "required": ["content"]},
                {"properties": {"tool_calls": {"type": "array"}}, "required": ["tool_calls"]},
                {"properties": {"function_call": {"type": "object"}}, "required": ["function_call"]},
            ]
        }
    ],
}
"""What the types alone do not say, by component, for the schema; `chat.request` checks the same."""
