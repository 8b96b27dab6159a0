"""What can be asked of the gateway, as an OpenAPI 3.1 document.

The bodies of requests are the structs that the dialects check with, so what is written here is what is accepted. What
types alone cannot say stands in each shape's RULES, in the same words in schema and code.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from pilothouse import __version__
from pilothouse.serve.gateway.dialects import _chat_shape, _messages_shape, _responses_shape, completions, embeddings

_REF = "#/components/schemas/"
_REQUESTS: tuple[tuple[str, type[msgspec.Struct], str, str, str], ...] = (
    ("/v1/chat/completions", _chat_shape.ChatRequest, "chat", "Answer a conversation", "Error"),
    ("/v1/completions", completions.CompletionRequest, "complete", "Continue a text", "Error"),
    ("/v1/responses", _responses_shape.ResponseRequest, "respond", "Answer items with items", "Error"),
    ("/v1/messages", _messages_shape.MessageRequest, "message", "Answer in Anthropic's form", "MessageError"),
    ("/v1/embeddings", embeddings.EmbeddingRequest, "embed", "Turn texts into vectors", "Error"),
)
"""Path, body, name, what it does, shape of errors."""
_RULES: dict[str, list[dict[str, Any]]] = {
    **_chat_shape.RULES,
    **completions.RULES,
    **_responses_shape.RULES,
    **_messages_shape.RULES,
}
_ANSWERS = {
    "/v1/chat/completions": ("id", "object", "created", "model", "choices"),
    "/v1/completions": ("id", "object", "created", "model", "choices"),
    "/v1/responses": ("id", "object", "created_at", "status", "model", "output"),
    "/v1/messages": ("id", "type", "role", "model", "content", "stop_reason", "usage"),
    "/v1/embeddings": ("object", "data", "model"),
}
"""Which fields every whole answer has."""
_REFUSALS = {
    "400": "The request is not well-formed, or asks for what cannot be done here; `param` names the field.",
    "401": "No valid key.",
    "403": "This key, or this origin, may not ask that.",
    "404": "No such model or path.",
    "413": "The body is too large.",
    "429": "A limit is reached; Retry-After says when to come back.",
    "500": "The gateway failed.",
    "502": "The engine failed.",
    "503": "No engine answers now; Retry-After says when to come back.",
    "504": "The engine takes too long.",
}
_OBJECT: dict[str, Any] = {"type": "object"}
_TEXT: dict[str, Any] = {"type": "string"}
_OPTIONAL_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_ERRORS: dict[str, dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": _TEXT, "type": _TEXT, "param": _OPTIONAL_TEXT, "code": _OPTIONAL_TEXT},
            }
        },
    },
    "MessageError": {
        "type": "object",
        "required": ["type", "error", "request_id"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT},
            },
            "request_id": _TEXT,
        },
    },
}
_DECISION = {
    "type": "object",
    "description": "Why a guard ended this answer.",
    "required": ["guard", "category", "decision_id"],
    "properties": {"guard": _TEXT, "category": _TEXT, "decision_id": _TEXT},
}
_EVENT = {
    "type": "object",
    "description": "One event. Its data is JSON, or [DONE] at the end of OpenAI's older forms.",
    "required": ["data"],
    "properties": {"event": _TEXT, "data": _TEXT},
}
_FEEDBACK = {
    "type": "object",
    "required": ["exchange", "kind", "value"],
    "properties": {"exchange": _TEXT, "kind": {"enum": ["thumb", "edit", "comment"]}, "value": _TEXT},
    "additionalProperties": _TEXT,
}


def document(models: Iterable[str], *, keyed: bool = True) -> dict[str, Any]:
    """The description of a gateway that serves these models, with or without keys."""
    schemas = {**_components(), "Model": {"type": "string", "enum": list(models)}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilothouse gateway",
            "version": __version__,
            "description": "OpenAI's and Anthropic's forms in front of any engine. Streams are server-sent events.",
        },
        "paths": {**{r[0]: {"post": _ask(*r)} for r in _REQUESTS}, **_others()},
        "components": {"schemas": schemas},
    }
    if keyed:
        document["security"] = [{"bearer": []}]
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        paths = document["paths"]
        paths["/v1/messages"]["post"]["security"] = [{"bearer": []}, {"x-api-key": []}]
        paths["/metrics"]["get"]["security"] = [{}, {"bearer": []}]  # this machine's processes need no key for figures
    return document


def _ask(path: str, body: type[msgspec.Struct], name: str, summary: str, error: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "type": "object",
        "required": list(_ANSWERS[path]),
        "properties": {"pilothouse": _DECISION},
    }
    content = {"application/json": {"schema": answer}}
    if path != "/v1/embeddings":
        content["text/event-stream"] = {"schema": _EVENT}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": _body({"$ref": _REF + body.__name__}),
        "responses": {"200": {"description": "The answer.", "content": content}, **_refused(error)},
    }


def _others() -> dict[str, Any]:
    """The paths that ask no model."""
    feedback = {"operationId": "feedback", "summary": "Say what an answer was worth", "requestBody": _body(_FEEDBACK)}
    health: dict[str, Any] = _get("health", "Does an engine answer?", "What is served, and by whom.")
    health["responses"] = {
        code: {"description": what, "content": {"application/json": {"schema": _OBJECT}}}
        for code, what in (("200", "It does."), ("503", "None does."))
    }
    metrics = _get("metrics", "Figures for Prometheus", "Figures.")
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    return {
        "/v1/models": {"get": _get("models", "Which models may be asked", "A list.")},
        "/v1/usage": {"get": _get("usage", "What the caller's key has used, and may", "Figures and limits.")},
        "/v1/feedback": {"post": {**feedback, "responses": {**_ok("It is kept."), **_refused("Error")}}},
        "/healthz": {"get": {**health, "security": []}},
        "/metrics": {"get": metrics},
    }


def _get(name: str, summary: str, what: str) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {**_ok(what), **_refused("Error")}}


def _ok(what: str) -> dict[str, Any]:
    return {"200": {"description": what, "content": {"application/json": {"schema": _OBJECT}}}}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _refused(shape: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF + shape}}}
    return {code: {"description": what, "content": content} for code, what in _REFUSALS.items()}


@cache
def _components() -> dict[str, Any]:
    """Every named schema but the models, with the rules that types do not say."""
    shapes: list[Any] = [body for _, body, *_ in _REQUESTS]
    (*_, items), components = msgspec.json.schema_components(
        [*shapes, _responses_shape.Item], ref_template=_REF + "{name}"
    )
    for name, schema in components.items():
        if name in _RULES:
            schema["allOf"] = _RULES[name]
    for body in shapes:
        components[body.__name__]["properties"]["model"] = {"$ref": _REF + "Model"}
    components["InputItem"] = items
    components["MessageItem"]["required"].remove("type")  # an item that names no type is a message
    _plain(components)
    return {**components, **_ERRORS}


def _plain(schema: Any) -> None:
    """Without `discriminator`: it allows no missing type, and `anyOf` says as much."""
    if isinstance(schema, dict):
        if "anyOf" in schema:
            schema.pop("discriminator", None)
        for part in schema.values():
            _plain(part)
    elif isinstance(schema, list):
        for part in schema:
            _plain(part)
