"""How a model in Triton is asked, and what it answers: ours (llama.cpp inside), and Triton's own vLLM back end."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from pilothouse.serve.engines._openai_pieces import Ask, EngineError, Piece


class Transport(Protocol):
    """A way to Triton: HTTP or gRPC."""

    def ask(
        self, inputs: Mapping[str, str | bool], parameters: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The outputs of each response, by name. Leaving it cancels the request."""

    async def ready(self) -> bool:
        """Can the model answer?"""

    async def close(self) -> None:
        """Let go of connections."""


def fault(message: str, status: int) -> EngineError:
    """Triton's error with the status that the model put before it (`_triton_model`), else with Triton's own."""
    marked = re.search(r"\[([45]\d\d)\] (.*)", message, re.S)
    return EngineError(int(marked[1]), marked[2]) if marked else EngineError(status if status >= 400 else 500, message)


@dataclass(frozen=True)
class LlamaCppModel:
    """`_triton_model`: OpenAI's messages and parameters go in as JSON, OpenAI's choices come out."""

    transport: Transport
    key: str = ""

    async def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """One choice."""
        body = dict(ask.body)
        adapter = str(body.pop("adapter", "") or "")
        inputs: dict[str, str | bool] = {"sampling_parameters": _json(body), "stream": ask.stream}
        inputs |= {"messages": _json(ask.prompt)} if ask.chat else {"text_input": ask.prompt}
        inputs |= {"adapter": adapter} if adapter else {}
        parameters = {"pilothouse_key": self.key} if self.key else {}
        async with aclosing(self.transport.ask(inputs, parameters)) as responses:
            async for outputs in responses:
                chunks = msgspec.json.decode(_text(outputs, "chunks"))
                for chunk in chunks:
                    last = chunk is chunks[-1]
                    more = dict(chunk.get("delta", {}))
                    more.pop("role", None)
                    text = more.pop("content", None) or chunk.get("text") or ""
                    yield Piece(
                        text,
                        more,
                        chunk.get("logprobs"),
                        chunk["finish_reason"] or "",
                        int(outputs["num_input_tokens"]) if last else 0,
                        int(outputs["num_output_tokens"]) if last else 0,
                    )


VLLM_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "ignore_eos": "ignore_eos",
}
"""OpenAI's (and vLLM's) names → vLLM's SamplingParams, which the back end reads as JSON."""
_HARMLESS = {"user", "adapter", "metadata", "store"}


@dataclass(frozen=True)
class VllmModel:
    """Triton's vLLM back end: a prompt goes in, text comes out. render: messages → prompt, by the chat template."""

    transport: Transport
    render: Callable[[Sequence[Mapping[str, Any]]], str]

    async def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """One choice. A field that the back end does not have is refused, never dropped."""
        given = {name: value for name, value in ask.body.items() if value is not None and name not in _HARMLESS}
        unknown = sorted(name for name in given if name not in VLLM_FIELDS and given[name] is not False)
        if unknown:
            raise EngineError(400, f"Triton's vLLM back end has no {', '.join(unknown)}")
        sampling = {VLLM_FIELDS[name]: value for name, value in given.items() if name in VLLM_FIELDS}
        if ask.body.get("adapter"):
            sampling["lora_name"] = ask.body["adapter"]
        inputs: dict[str, str | bool] = {
            "text_input": self.render(ask.prompt) if ask.chat else ask.prompt,
            "sampling_parameters": _json(sampling),
            "stream": ask.stream,
            "exclude_input_in_output": True,
            "return_finish_reason": True,
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
        }
        async with aclosing(self.transport.ask(inputs, {})) as responses:
            async for outputs in responses:
                finish = _text(outputs, "finish_reason")
                yield Piece(
                    _text(outputs, "text_output"),
                    finish="" if finish == "None" else finish,
                    prompt_tokens=int(outputs.get("num_input_tokens", 0)),
                    completion_tokens=int(outputs.get("num_output_tokens", 0)),
                )


def chat_template(folder: str) -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """The model's own chat template, by transformers (which vLLM's environment has)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    return render


def _text(outputs: Mapping[str, Any], name: str) -> str:
    """gRPC gives bytes, HTTP text."""
    value = outputs.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
