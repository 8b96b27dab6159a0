"""What `/v1/responses` takes. A field that asks for something kept or run on the server must be null: nothing is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from pilothouse.serve.gateway.dialects._shape import (
    Alternatives,
    Name,
    Share,
    Temperature,
    Tokens,
    foreign_schema,
    needs_schema,
)


class InputText(Struct, tag_field="type", tag="input_text"):
    """What was said to the model."""

    text: str


class OutputText(Struct, tag_field="type", tag="output_text"):
    """What the model said."""

    text: str


class Refusal(Struct, tag_field="type", tag="refusal"):
    """What the model would not do."""

    refusal: str


class InputImage(Struct, tag_field="type", tag="input_image"):
    """An image by URL or as data in one. Files are not kept here."""

    image_url: str
    detail: str | None = None
    file_id: None = None


class InputFile(Struct, tag_field="type", tag="input_file"):
    """A file as data."""

    file_data: str
    filename: str | None = None
    file_id: None = None
    file_url: None = None


class Sound(Struct):
    """Sound as data."""

    data: str
    format: str


class InputAudio(Struct, tag_field="type", tag="input_audio"):
    """Something said aloud."""

    input_audio: Sound


Part = InputText | OutputText | Refusal | InputImage | InputFile | InputAudio


class MessageItem(Struct, tag_field="type", tag="message"):
    """A turn of the conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Meta(min_length=1)]


class CallItem(Struct, tag_field="type", tag="function_call"):
    """A call the model made."""

    call_id: Name
    name: Name
    arguments: str


class CallOutputItem(Struct, tag_field="type", tag="function_call_output"):
    """What the call gave."""

    call_id: Name
    output: str | Annotated[list[Part], Meta(min_length=1)]


class Thought(Struct):
    """Text of a reasoning."""

    text: str


class ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    """What the model thought. Encrypted thoughts are another service's: no engine here could read them."""

    summary: list[Thought] | None = None
    content: list[Thought] | None = None
    encrypted_content: None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem


class FunctionTool(Struct):
    """A function that may be called. Tools that a service runs itself do not exist here."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OneFunction(Struct, tag_field="type", tag="function"):
    """This one must be called."""

    name: Name


class AllowedFunction(Struct):
    """A function by name."""

    type: Literal["function"]
    name: Name


class Allowed(Struct, tag_field="type", tag="allowed_tools"):
    """One of these may or must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedFunction], Meta(min_length=1)]


class TextFormat(Struct, tag_field="type", tag="text"):
    """Free text."""


class JsonFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON by a schema."""

    name: Name
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class Text(Struct):
    """How the text of the answer is shaped."""

    format: TextFormat | JsonFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Struct):
    """How much to think. There are no summaries: the thoughts themselves come where the engine shows them."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class Streaming(Struct):
    """How to stream. Nothing is padded to hide lengths, so both values give the same."""

    include_obfuscation: bool | None = None


ITEM_REF = {"$ref": "#/components/schemas/InputItem"}


class ResponseRequest(Struct, kw_only=True):
    """A request for a response."""

    model: Name
    input: Annotated[
        Any,
        Meta(extra_json_schema={"anyOf": [{"type": "string"}, {"type": "array", "items": ITEM_REF, "minItems": 1}]}),
    ]
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | OneFunction | Allowed | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Tokens | None = None
    max_tool_calls: int | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: Alternatives | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    user: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: Streaming | None = None
    truncation: Literal["disabled"] | None = None
    background: Annotated[bool | None, Meta(extra_json_schema={"enum": [False, None]})] = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None


FOREIGN = (
    "messages",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
    "functions",
    "function_call",
    "logprobs",
    "reasoning_effort",
    "verbosity",
)
"""Fields of the chat form that this form says in its own words."""

RULES: dict[str, list[dict[str, Any]]] = {
    "ResponseRequest": [needs_schema("stream_options", "stream"), foreign_schema(FOREIGN)]
}
