"""What `/v1/messages` takes. Hints about caching are heard and need nothing: engines reuse prefixes by themselves.
So are tiers of service: there is one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from pilothouse.serve.gateway.dialects._shape import Name, Share, Tokens, foreign_schema


class TextBlock(Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class SystemBlock(Struct):
    """Text of instructions."""

    type: Literal["text"]
    text: str


class Base64Source(Struct, tag_field="type", tag="base64"):
    """An image as data."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    """An image elsewhere."""

    url: str


class ImageBlock(Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call the model made."""

    id: Name
    name: Name
    input: dict[str, Any]


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    """What the call gave."""

    tool_use_id: Name
    content: str | list[TextBlock | ImageBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """What the model thought. Its signature says nothing to an engine here."""

    thinking: str
    signature: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    """What a person says, and what tools gave."""

    content: str | Annotated[list[TextBlock | ImageBlock | ToolResultBlock], Meta(min_length=1)]


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """What was answered before."""

    content: str | Annotated[list[TextBlock | ThinkingBlock | ToolUseBlock], Meta(min_length=1)]


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions in the midst of a conversation."""

    content: str | Annotated[list[SystemBlock], Meta(min_length=1)]


class MessageTool(Struct):
    """A tool that the caller runs. Those a service runs itself do not exist here."""

    name: Name
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None


class ChooseAuto(Struct, tag_field="type", tag="auto"):
    """A tool may be called."""

    disable_parallel_tool_use: bool | None = None


class ChooseAny(Struct, tag_field="type", tag="any"):
    """Some tool must be called."""

    disable_parallel_tool_use: bool | None = None


class ChooseTool(Struct, tag_field="type", tag="tool"):
    """This tool must be called."""

    name: Name
    disable_parallel_tool_use: bool | None = None


class ChooseNone(Struct, tag_field="type", tag="none"):
    """No tool may be called."""


class ThinkingOn(Struct, tag_field="type", tag="enabled"):
    """Think, for so many tokens at most."""

    budget_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class ThinkingAdaptive(Struct, tag_field="type", tag="adaptive"):
    """Think where it helps."""


class ThinkingOff(Struct, tag_field="type", tag="disabled"):
    """Do not think."""


class JsonOutput(Struct):
    """JSON by a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    """How the answer is shaped."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutput | None = None


class Metadata(Struct):
    """About the caller."""

    user_id: str | None = None


class MessageRequest(Struct, kw_only=True):
    """A request for a message."""

    model: Name
    max_tokens: Tokens
    messages: Annotated[list[UserMessage | AssistantMessage | SystemMessage], Meta(min_length=1)]
    system: str | list[SystemBlock] | None = None
    tools: list[MessageTool] | None = None
    tool_choice: ChooseAuto | ChooseAny | ChooseTool | ChooseNone | None = None
    stop_sequences: list[Name] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    thinking: ThinkingOn | ThinkingAdaptive | ThinkingOff | None = None
    output_config: OutputConfig | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: dict[str, Any] | None = None
    stream: bool | None = None
    container: None = None
    mcp_servers: Annotated[list[Any], Meta(max_length=0)] | None = None


FOREIGN = (
    "n",
    "stop",
    "max_completion_tokens",
    "response_format",
    "functions",
    "function_call",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "stream_options",
    "parallel_tool_calls",
    "user",
)
"""Fields of the chat form that this form says in its own words, or whose answer it has no words for."""

RULES: dict[str, list[dict[str, Any]]] = {"MessageRequest": [foreign_schema(FOREIGN)]}
