"""A server that answers as TGI 3.3 does, with a real llama.cpp behind it: its words are a model's, its form is TGI's.

TGI itself cannot be installed everywhere (no package, a GPU). What its router does was read in its source
(router/src/server.rs). `fault` makes it fail as TGI can. Not here, as in a TGI that is so configured: best_of > 1,
decoder_input_details, images.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tests.serve import tgi_shapes as shape
from tests.serve.tgi_chat import FINGERPRINT, chat_answer, chat_events, generate_of
from tests.serve.tgi_generate import Generator, InferError


@dataclass
class TgiServer(Generator):
    """One server, while entered. port 0: one of its own. space: is there one after `data:`? Both are found."""

    key: str = ""
    space: bool = True
    port: int = 0
    seen: list[tuple[str, Any]] = field(default_factory=list)

    def __enter__(self) -> TgiServer:
        self.http = _Http(("127.0.0.1", self.port), type("Handler", (_Handler,), {"tgi": self}))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def metrics(self) -> str:
        """As metrics-exporter-prometheus writes them."""
        return (
            "# HELP tgi_queue_size Current queue size\n# TYPE tgi_queue_size gauge\ntgi_queue_size 0\n\n"
            "# TYPE tgi_batch_current_size gauge\n"
            f"tgi_batch_current_size {self.running}\n\n"
            f'# TYPE tgi_request_count counter\ntgi_request_count {len(self.seen)}\ntgi_batch_concat{{reason="x"}} 1\n'
        )


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tgi: TgiServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        tgi = self.tgi
        if self.path in ("/", "/health", "/ping"):
            self.reply(200, b"")
        elif self.path == "/info":
            self.reply(200, msgspec.json.encode(tgi.info))
        elif self.path == "/metrics":
            self.reply(200, tgi.metrics().encode(), "text/plain; charset=utf-8")
        elif self.path == "/v1/models":
            name = tgi.info.model_id
            model = {"id": name, "object": "model", "created": 0, "owned_by": name}
            self.reply(200, json.dumps({"object": "list", "data": [model]}).encode())
        else:
            self.reply(404, b"")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.tgi.key and (self.headers.get("authorization") or "").lower() != f"bearer {self.tgi.key}".lower():
            self.reply(401, b"")
            return
        routes = {"/": self.compat, "/generate": self.generate, "/generate_stream": self.generate_stream}
        routes |= {"/v1/chat/completions": self.chat, "/v1/completions": self.completions}
        if self.path not in routes:
            self.reply(404, b"")
            return
        try:
            self.tgi.seen.append((self.path, json.loads(raw)))
            routes[self.path](raw)
        except (msgspec.DecodeError, ValueError) as e:  # axum's own refusal of a body, as text
            text = f"Failed to deserialize the JSON body into the target type: {e}"
            self.reply(422, text.encode(), "text/plain; charset=utf-8")
        except InferError as e:
            self.reply(e.status, msgspec.json.encode(e.record))
        except BrokenPipeError:
            pass

    def compat(self, raw: bytes) -> None:
        """POST /: as `generate`, its answer in a list, or as `generate_stream`."""
        request = msgspec.json.decode(raw, type=shape.CompatGenerateRequest)
        if request.stream:
            self.stream(self.tgi.generate(request))
        else:
            self.reply(200, msgspec.json.encode([self.whole(request)]))

    def generate(self, raw: bytes) -> None:
        """POST /generate."""
        self.reply(200, msgspec.json.encode(self.whole(msgspec.json.decode(raw, type=shape.GenerateRequest))))

    def generate_stream(self, raw: bytes) -> None:
        """POST /generate_stream: no [DONE], and errors as events."""
        self.stream(self.tgi.generate(msgspec.json.decode(raw, type=shape.GenerateRequest)))

    def whole(self, request: shape.GenerateRequest) -> shape.GenerateResponse:
        """All events as one answer."""
        wanted, request.parameters.details = request.parameters.details, True
        events = list(self.tgi.generate(request))
        last = events[-1]
        assert last.details is not None and last.generated_text is not None
        answer = shape.GenerateResponse(last.generated_text)
        self.length = last.details.input_length
        if wanted:
            tops = [e.top_tokens for e in events if isinstance(e.top_tokens, list)]
            d = last.details
            answer.details = shape.Details(
                d.finish_reason, d.generated_tokens, [], [e.token for e in events], d.seed, tops or msgspec.UNSET
            )
        return answer

    def chat(self, raw: bytes) -> None:
        """POST /v1/chat/completions."""
        body = json.loads(raw)
        if "max_completion_tokens" in body:
            if "max_tokens" in body:
                raise ValueError("duplicate field `max_tokens`")
            body["max_tokens"] = body.pop("max_completion_tokens")
        for tool in body.get("tools") or []:
            tool["function"].setdefault("arguments", tool["function"].pop("parameters", msgspec.UNSET))
            if tool["function"]["arguments"] is msgspec.UNSET:
                raise ValueError("missing field `arguments`")
        asked = msgspec.convert(body, shape.ChatRequest)
        request, tools = generate_of(asked, self.tgi.ask)
        model = self.tgi.info.model_id if asked.model in (None, "tgi") else str(asked.model)
        again = generate_of(msgspec.structs.replace(asked, tools=None, response_format=None), self.tgi.ask)[0]
        if asked.stream:
            events = chat_events(asked, self.tgi.generate(request), tools, model, lambda: self.tgi.generate(again))
            self.stream(events, nested=True)
            return
        generated = self.whole(request)
        if tools and json.loads(generated.generated_text)["function"]["_name"] == "no_tool":
            generated, tools = self.whole(again), False
        self.reply(200, msgspec.json.encode(chat_answer(asked, generated, tools, model, self.length)))

    def completions(self, raw: bytes) -> None:
        """POST /v1/completions, one or several prompts."""
        asked = msgspec.json.decode(raw, type=shape.CompletionRequest)
        if asked.suffix is not None:
            text = "Suffix is not supported and can be achieved by preprocessing the prompt."
            raise InferError(text, "suffix not supported", 422)
        p = shape.GenerateParameters(
            temperature=asked.temperature or None,
            repetition_penalty=asked.repetition_penalty,
            frequency_penalty=asked.frequency_penalty,
            top_p=asked.top_p,
            do_sample=asked.temperature != 0,
            max_new_tokens=asked.max_tokens,
            stop=asked.stop or [],
            details=True,
            seed=asked.seed,
            adapter_id=None if asked.model == "tgi" else asked.model,
        )
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        requests = [shape.GenerateRequest(text, p) for text in prompts]
        now, model = int(time.time()), self.tgi.info.model_id
        if asked.stream:
            self.stream(self._completion_events(requests, now, model), nested=True)
            return
        choices, used = [], shape.Usage(0, 0, 0)
        for index, request in enumerate(requests):
            p.details = True
            answer = self.whole(request)
            assert isinstance(answer.details, shape.Details)
            reason = re.sub("^eos_token$", "stop", answer.details.finish_reason)
            choices.append(shape.CompletionComplete(index, answer.generated_text, reason))
            used.prompt_tokens += self.length
            used.completion_tokens += answer.details.generated_tokens
        used.total_tokens = used.prompt_tokens + used.completion_tokens
        final = shape.CompletionFinal("", now, choices, model, FINGERPRINT, usage=used)
        self.reply(200, msgspec.json.encode(final))

    def _completion_events(
        self, requests: list[shape.GenerateRequest], now: int, model: str
    ) -> Iterator[shape.Chunk | shape.CompletionFinal]:
        for index, request in enumerate(requests):
            for event in self.tgi.generate(request):
                d = event.details
                choice = shape.CompletionComplete(index, event.token.text, d.finish_reason if d else "")
                if d is None:
                    yield shape.Chunk("", now, [choice], model, FINGERPRINT)
                    continue
                used = shape.Usage(d.input_length, d.generated_tokens, d.input_length + d.generated_tokens)
                yield shape.CompletionFinal("", now, [choice], model, FINGERPRINT, usage=used)

    def stream(self, events: Iterator[msgspec.Struct], *, nested: bool = False) -> None:
        """Server-sent events. An error is an event too: status and head have long gone. nested: OpenAI's form."""
        self.send_response(200)
        for name, value in (("content-type", "text/event-stream"), ("transfer-encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        self.event(b":\n\n")  # axum's keep-alive is a comment
        lead = b"data: " if self.tgi.space else b"data:"
        try:
            for event in events:
                self.event(lead + msgspec.json.encode(event) + b"\n\n")
        except InferError as e:
            record: Any = e.record
            if nested:
                record = {"error": {"message": e.record.error, "http_status_code": 422}}
            self.event(lead + msgspec.json.encode(record) + b"\n\n")
        if nested:
            self.event(lead + b"[DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data: bytes) -> None:
        """One chunk."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
