"""What TGI 3.3 publishes about its requests and answers (its OpenAPI document), as records that check themselves.

Answers refuse fields that the document does not have; requests ignore them, as TGI's router does (serde). A field that
may be null says so; `test_tgi.py` holds every record against the document itself where PILOTHOUSE_TGI_OPENAPI names it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Text = str | None


class Request(msgspec.Struct):
    """A body that a client sends."""


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """A body that TGI sends."""


class JsonSchemaConfig(Request):
    schema: Any
    name: Text = None


class JsonGrammar(Request, tag_field="type", tag="json"):
    value: Any


class JsonObjectGrammar(Request, tag_field="type", tag="json_object"):
    """An alias in the source, not in the document."""

    value: Any


class RegexGrammar(Request, tag_field="type", tag="regex"):
    value: str


class SchemaGrammar(Request, tag_field="type", tag="json_schema"):
    value: JsonSchemaConfig


Grammar = JsonGrammar | JsonObjectGrammar | RegexGrammar | SchemaGrammar


class GenerateParameters(Request):
    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Grammar | None = None
    adapter_id: Text = None


class GenerateRequest(Request):
    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=lambda: GenerateParameters(do_sample=True))


class CompatGenerateRequest(GenerateRequest):
    stream: bool = False


class StreamOptions(Request):
    include_usage: bool = False


class FunctionDefinition(Request):
    name: str
    arguments: Any
    description: Text = None


class Tool(Request):
    type: str
    function: FunctionDefinition


class ChatRequest(Request):
    """`messages` are read by `message_text`: their form is a choice that JSON alone does not tell."""

    messages: list[dict[str, Any]]
    model: Text = None
    frequency_penalty: float | None = None
    logit_bias: list[float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    stop: list[str] | None = None
    stream: bool = False
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Tool] | None = None
    tool_prompt: Text = None
    tool_choice: Any = "auto"
    response_format: Grammar | None = None
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)


class CompletionRequest(Request):
    prompt: str | list[str]
    model: Text = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    seed: int | None = None
    suffix: Text = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: list[str] | None = None


class ErrorResponse(Answer):
    error: str
    error_type: str


class Info(Answer):
    model_id: str
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    model_sha: Text = None
    model_pipeline_tag: Text = None
    sha: Text = None
    docker_label: Text = None


class PrefillToken(Answer):
    id: int
    text: str
    logprob: float | None


class Token(Answer):
    id: int
    text: str
    logprob: float | None
    special: bool


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class Details(Answer):
    finish_reason: FinishReason
    generated_tokens: int
    prefill: list[PrefillToken]
    tokens: list[Token]
    seed: int | None = None
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class GenerateResponse(Answer):
    generated_text: str
    details: Details | msgspec.UnsetType = msgspec.UNSET


class StreamDetails(Answer):
    finish_reason: FinishReason
    generated_tokens: int
    input_length: int
    seed: int | None = None


class StreamResponse(Answer):
    index: int
    token: Token
    generated_text: Text = None
    details: StreamDetails | None = None
    top_tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletionTopLogprob(Answer):
    token: str
    logprob: float


class ChatCompletionLogprob(Answer):
    token: str
    logprob: float
    top_logprobs: list[ChatCompletionTopLogprob]


class ChatCompletionLogprobs(Answer):
    content: list[ChatCompletionLogprob]


class CalledFunction(Answer):
    """FunctionDefinition on its way out: arguments are a text."""

    name: str
    arguments: str
    description: Text = None


class ToolCall(Answer):
    id: str
    type: str
    function: CalledFunction


class OutputMessage(Answer):
    """TextMessage or ToolCallMessage: content or tool_calls."""

    role: str
    content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletionComplete(Answer):
    index: int
    message: OutputMessage
    finish_reason: str
    logprobs: ChatCompletionLogprobs | None = None


class ChatCompletion(Answer, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionComplete]
    usage: Usage


class Function(Answer):
    arguments: str
    name: Text = None


class DeltaToolCall(Answer):
    index: int
    id: str
    type: str
    function: Function


class ChatCompletionDelta(Answer):
    """TextMessage or ToolCallDelta."""

    role: str
    content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[DeltaToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletionChoice(Answer):
    index: int
    delta: ChatCompletionDelta
    logprobs: ChatCompletionLogprobs | None = None
    finish_reason: Text = None


class ChatCompletionChunk(Answer, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage | None = None


class CompletionComplete(Answer):
    index: int
    text: str
    finish_reason: str
    logprobs: list[float] | None = None


class Chunk(Answer, tag_field="object", tag="text_completion"):
    id: str
    created: int
    choices: list[CompletionComplete]
    model: str
    system_fingerprint: str


class CompletionFinal(Chunk, tag_field="object", tag="text_completion", kw_only=True):
    usage: Usage


def message_text(message: dict[str, Any]) -> str:
    """Text of a chat message (TextMessage::from): its content, or else its tool calls as JSON."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = []
        for part in content:
            if part.get("type") not in ("text", "image_url"):
                raise ValueError("data did not match any variant of untagged enum MessageBody")
            parts.append(part["text"] if part["type"] == "text" else f"![]({part['image_url']['url']})")
        return "".join(parts)
    if isinstance(message.get("tool_calls"), list):
        return msgspec.json.encode(message["tool_calls"]).decode()
    raise ValueError("data did not match any variant of untagged enum MessageBody")
