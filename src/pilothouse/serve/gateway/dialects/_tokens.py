"""Does a prompt hold text or token ids? `/v1/completions` and `/v1/embeddings` take either, one or many."""

from __future__ import annotations

from typing import Any, Literal

from pilothouse.serve.gateway.dialects._shape import invalid, whole_numbers

_TOKEN: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TOKENS: dict[str, Any] = {"type": "array", "items": _TOKEN, "minItems": 1}


def schema(text: dict[str, Any]) -> dict[str, Any]:
    """Text, texts, tokens, or lists of tokens."""
    texts = {"type": "array", "items": text, "minItems": 1}
    return {"anyOf": [text, texts, _TOKENS, {"type": "array", "items": _TOKENS, "minItems": 1}]}


PROMPT_SCHEMA = schema({"type": "string"})
INPUT_SCHEMA = schema({"type": "string", "minLength": 1})


def kind_of(prompt: Any, field: str) -> Literal["text", "tokens"]:
    """What it holds; ApiError(400) for a mixture or anything else."""
    if isinstance(prompt, str):
        return "text"
    if isinstance(prompt, list) and prompt:
        if all(isinstance(p, str) for p in prompt):
            return "text"
        if _ids(prompt) or all(isinstance(p, list) and p and _ids(p) for p in prompt):
            return "tokens"
        if whole_numbers(prompt):
            return kind_of(prompt, field)
    raise invalid(field, "expected text, a list of texts, a list of token ids, or a list of such lists")


def _ids(tokens: list[Any]) -> bool:
    return all(type(t) is int and 0 <= t < 2**31 for t in tokens)
