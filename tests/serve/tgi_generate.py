"""Tokens as TGI's generate tells them, made by a real llama.cpp; refused as TGI's validation refuses.

router/src/validation.rs and infer/mod.rs of TGI 3.3 say which checks, in which order and words.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.serve import tgi_shapes as shape

END = "<|im_end|>"


class InferError(Exception):
    """What TGI's router raises while it answers: a text, a type and the status it maps to."""

    def __init__(self, text: str, kind: str, status: int) -> None:
        super().__init__(text)
        self.status, self.record = status, shape.ErrorResponse(text, kind)


def invalid(text: str) -> InferError:
    """ValidationError."""
    return InferError(f"Input validation error: {text}", "validation", 422)


OVERLOADED = InferError("Model is overloaded", "overloaded", 429)
INCOMPLETE = InferError("Incomplete generation stream", "incomplete_generation_stream", 500)


@dataclass
class Generator:
    """llama: URL and key of the llama.cpp behind it. adapters: TGI's ids → `lora` fields of llama.cpp.

    fault: '', overloaded, generation (424) or cut (the engine ends in the middle).
    """

    llama: str
    llama_key: str
    adapters: Mapping[str | None, list[dict[str, Any]]] = field(default_factory=lambda: {None: []})
    fault: str = ""
    info: shape.Info = field(
        default_factory=lambda: shape.Info(
            "/data/smollm2", 4, 1, 4, 511, 512, 2, 4, "text-generation-router", "3.3.6-dev0"
        )
    )
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def validate(self, p: shape.GenerateParameters, inputs: str) -> None:
        """router/src/validation.rs, in its order."""
        if (p.best_of or 1) != 1:
            raise invalid("`best_of` != 1 is not allowed for this endpoint")
        if p.temperature is not None and p.temperature <= 0:
            raise invalid("`temperature` must be strictly positive")
        if p.repetition_penalty is not None and p.repetition_penalty <= 0:
            raise invalid("`repetition_penalty` must be strictly positive")
        if not -2 <= (p.frequency_penalty or 0) <= 2:
            raise invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
        if p.top_p is not None and not 0 < p.top_p < 1:
            raise invalid("`top_p` must be > 0.0 and < 1.0")
        if p.top_k is not None and p.top_k <= 0:
            raise invalid("`top_k` must be strictly positive")
        if p.max_new_tokens == 0:
            raise invalid("`max_new_tokens` must be strictly positive")
        if len(p.stop) > self.info.max_stop_sequences:
            most = self.info.max_stop_sequences
            raise invalid(f"`stop` supports up to {most} stop sequences. Given: {len(p.stop)}")
        if (p.top_n_tokens or 0) > 5:
            raise invalid(f"`top_n_tokens` must be >= 0 and <= 5. Given: {p.top_n_tokens}")
        if not inputs:
            raise invalid("`inputs` cannot be empty")
        schema = p.grammar.value if isinstance(p.grammar, shape.JsonGrammar | shape.JsonObjectGrammar) else None
        schema = p.grammar.value.schema if isinstance(p.grammar, shape.SchemaGrammar) else schema
        if schema is not None and "properties" not in schema and "$functions" not in schema:
            raise invalid("grammar is not valid: Grammar must have a 'properties' field")

    def generate(self, request: shape.GenerateRequest) -> Iterator[shape.StreamResponse]:
        """Every token as an event, as `generate_stream` sends them; the last has text and details."""
        p = request.parameters
        with self.lock:
            if self.running >= self.info.max_concurrent_requests or self.fault == "overloaded":
                raise OVERLOADED
            self.running += 1
        try:
            self.validate(p, request.inputs)
            length = len(self.ask("/tokenize", {"content": request.inputs, "parse_special": True})["tokens"])
            most = p.max_new_tokens or max(0, self.info.max_total_tokens - length)
            if length + most > self.info.max_total_tokens:
                total = self.info.max_total_tokens
                text = f"`inputs` tokens + `max_new_tokens` must be <= {total}. Given: {length} `inputs` tokens and "
                raise invalid(f"{text}{most} `max_new_tokens`")
            if length > self.info.max_input_tokens:
                raise invalid(f"`inputs` must have less than {self.info.max_input_tokens} tokens. Given: {length}")
            if self.fault == "generation":
                raise InferError("Request failed during generation: CUDA out of memory", "generation", 424)
            yield from self._tokens(p, request.inputs, length, most)
        finally:
            with self.lock:
                self.running -= 1

    def _tokens(
        self, p: shape.GenerateParameters, inputs: str, length: int, most: int
    ) -> Iterator[shape.StreamResponse]:
        text, held = "", list[shape.StreamResponse]()
        for index, entry in enumerate(self._pieces(p, inputs, most), 1):
            if self.fault == "cut" and index == 3:
                raise INCOMPLETE
            over = {"limit": "length", "eos": "eos_token"}.get(entry.get("stop_type", ""))
            if over is None:
                yield from held
                token = _token(entry)
                text += "" if token.special else token.text
                held = [shape.StreamResponse(index, token)]
                if p.top_n_tokens:
                    held[0].top_tokens = [_token(t) for t in entry["top_logprobs"][: p.top_n_tokens]]
                if index < most and any(text.endswith(stop) for stop in p.stop):
                    over = "stop_sequence"
            if over is not None and held:
                last = held[0]
                last.generated_text = inputs + text if p.return_full_text else text
                if p.details:
                    last.details = shape.StreamDetails(over, last.index, length, p.seed)  # type: ignore[arg-type]
                yield last
                return
        raise INCOMPLETE

    def _pieces(self, p: shape.GenerateParameters, inputs: str, most: int) -> Iterator[dict[str, Any]]:
        """llama.cpp's tokens: id, bytes, logprob, top_logprobs; then why it ended: stop_type.

        It is not told of stop sequences: it would keep them back, and TGI does not. A character that the limit cuts in
        two is kept back, so an answer may have fewer tokens than asked for.
        """
        sampling = p.do_sample or any(v is not None for v in (p.temperature, p.top_k, p.top_p, p.typical_p))
        body: dict[str, Any] = {
            "prompt": inputs,
            "n_predict": most,
            "n_probs": max(1, p.top_n_tokens or 0),
            "stream": True,
            "cache_prompt": False,
            "temperature": (p.temperature or 1.0) if sampling else 0.0,
            "top_k": p.top_k or 0,
            "top_p": p.top_p or 1.0,
            "typical_p": p.typical_p or 1.0,
            "min_p": 0.0,
            "repeat_penalty": p.repetition_penalty or 1.0,
            "frequency_penalty": p.frequency_penalty or 0.0,
            "lora": self.adapters.get(p.adapter_id, self.adapters[None]),  # an unknown name: the base model
        }
        if p.seed is not None:
            body["seed"] = p.seed % 2**32
        if isinstance(p.grammar, shape.RegexGrammar):
            body["json_schema"] = {"type": "string", "pattern": f"^{p.grammar.value}$"}
        elif p.grammar is not None:
            value = p.grammar.value
            body["json_schema"] = value.schema if isinstance(value, shape.JsonSchemaConfig) else value
        answer = self._post("/completion", body)
        with answer:
            for line in answer:
                if line.startswith(b"data: "):
                    said = json.loads(line[6:])
                    yield from [said] if said.get("stop") else said.get("completion_probabilities", ())

    def ask(self, path: str, body: Any) -> Any:
        """One answer of llama.cpp."""
        with self._post(path, body) as answer:
            return json.load(answer)

    def _post(self, path: str, body: Any) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self.llama).netloc, timeout=60)
        head = {"content-type": "application/json", "authorization": f"Bearer {self.llama_key}"}
        connection.request("POST", path, json.dumps(body), head)
        answer = connection.getresponse()
        if answer.status != 200:
            text = answer.read().decode()
            raise InferError(f"Request failed during generation: {text}", "generation", 424)
        return answer


def _token(entry: Mapping[str, Any]) -> shape.Token:
    special = not entry["bytes"]
    text = END if special else bytes(entry["bytes"]).decode(errors="replace")
    return shape.Token(entry["id"], text, entry["logprob"], special)
