"""Where does TGI's form of OpenAI's API differ from OpenAI's, on the way in and on the way back?

From the source of text-generation-inference 3.3 (router/src/lib.rs, server.rs, chat.rs, validation.rs). Its router
ignores fields that it does not know; what would change the answer is refused here instead of dropped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from pilothouse.core.errors import UserError

WHERE = "engine tgi"
# fmt: off
_CHAT = frozenset({
    "model", "messages", "frequency_penalty", "logprobs", "top_logprobs", "max_tokens", "stop", "stream", "seed",
    "temperature", "top_p", "tools", "tool_prompt", "tool_choice", "response_format", "stream_options",
})
_TEXT = frozenset({
    "model", "prompt", "max_tokens", "temperature", "top_p", "stream", "seed", "repetition_penalty",
    "frequency_penalty", "stop",
})
# They say who asks or how fast, not what: nothing is lost when they are left out.
_HARMLESS = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "prediction", "cache_prompt",
})
# fmt: on
# Values that ask for nothing beyond what happens anyway.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({}, []),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "suffix": ("",),
    "tools": ([],),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
}
_WHY = {
    "n": "it makes one answer a request",
    "best_of": "it makes one answer a request",
    "presence_penalty": "it would take the number for a repetition penalty of 2 more",
    "logit_bias": "it ignores the field",
    "logprobs": "its text completions carry none",
}


def to_tgi(body: dict[str, Any]) -> dict[str, Any]:
    """The request as TGI's router takes it; UserError for what it cannot do."""
    is_chat = "prompt" not in body
    known = _CHAT if is_chat else _TEXT
    made: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _HARMLESS or any(value == nothing for nothing in _NOTHING.get(name, ())):
            continue
        if name == "max_completion_tokens":
            name = "max_tokens"  # an alias there: both at once are an error
        elif name == "stream_options" and not is_chat:
            continue  # its last event has the usage in any case
        elif name not in known:
            why = _WHY.get(name, "it has no such field")
            raise UserError(f"{name} cannot be served ({why})", where=WHERE, fix="Leave it out, or use another engine.")
        made[name] = value
    if isinstance(made.get("stop"), str):
        made["stop"] = [made["stop"]]
    if isinstance(made.get("top_p"), int | float) and made["top_p"] >= 1:
        del made["top_p"]  # everything is allowed: the default, which must not be said
    if isinstance(made.get("seed"), int):
        made["seed"] %= 2**64  # unsigned there
    if "response_format" in made:
        made["response_format"] = _grammar(made["response_format"])
    if "tools" in made:
        made["tools"] = [_tool(tool) for tool in made["tools"]]
    if "messages" in made:
        made["messages"] = [part for message in made["messages"] for part in _message(message)]
    if not is_chat and not _is_text(made.get("prompt")):
        raise UserError("a prompt of token ids cannot be served", where=WHERE, fix="Send it as text.")
    return made


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) or (isinstance(prompt, list) and all(isinstance(p, str) for p in prompt))


def _grammar(wanted: Any) -> Any:
    """OpenAI's response_format as TGI's GrammarType; TGI's own forms (json, regex, with `value`) as they are."""
    if not isinstance(wanted, dict) or "value" in wanted:
        return wanted
    form = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(form, dict) and isinstance(form.get("schema"), dict):
        if "properties" not in form["schema"]:
            fix = "Describe an object with properties."
            raise UserError("a JSON schema without 'properties' cannot be served", where=WHERE, fix=fix)
        named = {"name": form["name"]} if form.get("name") else {}
        return {"type": "json_schema", "value": {**named, "schema": form["schema"]}}
    what = f"response_format {wanted.get('type')!r} cannot be served without a schema"
    raise UserError(what, where=WHERE, fix="Give a json_schema with its properties.")


def _tool(tool: Any) -> Any:
    """A function without parameters says so: TGI cannot do without the field."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or function.get("parameters") or function.get("arguments"):
        return tool
    return {**tool, "function": {**function, "parameters": {"type": "object", "properties": {}}}}


def _message(message: Any) -> list[Any]:
    """One message, or two: TGI reads either the text of a message or its tool calls and forgets the other."""
    if not isinstance(message, dict) or not message.get("tool_calls"):
        return [message]
    calls = {name: value for name, value in message.items() if name != "content"}
    if not message.get("content"):
        return [calls]
    return [{name: value for name, value in message.items() if name != "tool_calls"}, calls]


_FINISH = {"eos_token": "stop", "stop_sequence": "stop", "": None}
_ERRORS = {"overloaded": "rate_limit_error", "generation": "server_error", "healthcheck": "server_error"}
_SERVER = frozenset({"incomplete_generation", "incomplete_generation_stream", "stream_serialization_error"})


def from_tgi(model: str, asked: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For one request: its whole answer, each of its chunks, or its error, as OpenAI says it.

    TGI's answers have no id, name the model by its path, have reasons to stop of their own and end with the stop
    sequence; its errors are flat.
    """
    made, called = f"chatcmpl-{secrets.token_hex(12)}", False
    stop = asked.get("stop") or []
    cut = _Cut([stop] if isinstance(stop, str) else stop)

    def translate(payload: dict[str, Any]) -> dict[str, Any]:
        nonlocal called
        if "error" in payload:
            return {"error": _error(payload)}
        out = {**payload, "id": payload.get("id") or made, "model": model}
        if isinstance(payload.get("choices"), list):
            out["choices"] = [cut.choice(c) for c in payload["choices"]]
            for choice in out["choices"]:
                said = choice.get("delta") or choice.get("message") or {}
                called = called or bool(said.get("tool_calls"))
                reason = _FINISH.get(choice.get("finish_reason"), choice.get("finish_reason"))
                choice["finish_reason"] = "tool_calls" if called and reason == "stop" else reason
        return out

    return translate


class _Cut:
    """Takes the stop sequence off the end of each choice. Of a stream, what may be its beginning waits."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._kept: dict[int, str] = {}

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A copy of the choice with what of its text is to be shown."""
        out = dict(choice)
        for name in ("delta", "message"):
            held = out.get(name)
            if isinstance(held, dict) and isinstance(held.get("content"), str):
                out[name] = {**held, "content": self._text(held["content"], choice)}
        if isinstance(out.get("text"), str):
            out["text"] = self._text(out["text"], choice)
        return out

    def _text(self, text: str, choice: dict[str, Any]) -> str:
        index, reason = choice.get("index", 0), choice.get("finish_reason")
        text = self._kept.pop(index, "") + text
        if reason == "stop_sequence":
            return next((text.removesuffix(stop) for stop in self._stops if text.endswith(stop)), text)
        if reason or not self._stops:
            return text
        most = min(len(text), len(self._stops[0]))
        n = next((n for n in range(most, 0, -1) if any(s.startswith(text[-n:]) for s in self._stops)), 0)
        self._kept[index] = text[len(text) - n :]
        return text[: len(text) - n]


def _error(payload: dict[str, Any]) -> dict[str, Any]:
    """Flat on the outside ({error, error_type}), nested inside a chat stream ({error: {message, http_status_code}})."""
    error, code = payload["error"], payload.get("error_type")
    if isinstance(error, dict):
        return {"type": "invalid_request_error", "param": None, "code": None, **error}
    kind = _ERRORS.get(str(code), "server_error" if code in _SERVER else "invalid_request_error")
    return {"message": str(error), "type": kind, "param": None, "code": code}
