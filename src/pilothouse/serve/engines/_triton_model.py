"""The Python model that runs inside Triton: llama.cpp with its chat templates, one request a thread.

The model repository gets this file as it is (`1/model.py`), so it imports nothing of Pilothouse. Its inputs, outputs
and settings are declared in `_triton_repository`; `_triton_models` is the other end of the talk.

An error's text begins with its HTTP status, "[400] …": Triton's streams carry no code of their own.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found, unused-ignore]

KEY = "PILOTHOUSE_ENGINE_KEY"
KEY_PARAMETER = "pilothouse_key"
"""A parameter of the request, not a header: this release of Triton does not hand on the headers of `generate`."""
_NOT_SAMPLING = (KEY_PARAMETER, "triton_enable_empty_final_response", "priority", "timeout")


class TritonPythonModel:
    """One llama.cpp; as many answers at a time as it has slots, the rest wait in order."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; what llama.cpp says about a failure is in the log just before Triton's own error."""
        import xllamacpp

        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["settings"]["string_value"])
        self._key = os.environ.get(KEY, "")
        self._adapters: list[str] = [name for name, _ in settings["adapters"]]
        p = xllamacpp.CommonParams()
        p.model.path = settings["model"]
        p.model_alias = {settings["alias"]}
        p.n_parallel = settings["streams"]
        p.n_ctx = settings["context"] * settings["streams"]
        p.cpuparams.n_threads = settings["threads"]
        p.cpuparams_batch.n_threads = settings["threads"]
        p.ui = False
        p.verbosity = 2
        # The library always opens its own port too: nobody else has the key to it.
        key = secrets.token_urlsafe(24)
        p.hostnames, p.port, p.api_keys = ["127.0.0.1"], 0, [key]
        # The cache of prompts in RAM restores states computed with another adapter (docs/decisions.md, 19).
        p.cache_ram_mib = 0
        # Scale 0: an adapter speaks only when a request names it.
        p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for _, path in settings["adapters"]]
        self._server = xllamacpp.Server(p)
        self._has_tools = _template_has_tools(self._server.listening_address, key)
        self._pool = ThreadPoolExecutor(settings["streams"], "answer")
        self._load = _Load(settings["alias"])

    def execute(self, requests: list[Any]) -> None:
        """Take requests; they are answered from threads, so that Triton can hand over the next ones at once."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                chat, body, stream = self._read(request)
            except _Refused as e:
                _fail(sender, e.status, str(e))
                continue
            self._load.change(waiting=1)
            self._pool.submit(self._answer, sender, chat, body, stream)

    def finalize(self) -> None:
        """Let what runs come to its end."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        del self._server

    def _read(self, request: Any) -> tuple[bool, dict[str, Any], bool]:
        """Is it a chat? Its body for llama.cpp; is it a stream?"""
        given = json.loads(request.parameters() or "{}")
        if self._key and not hmac.compare_digest(str(given.get(KEY_PARAMETER, "")).encode(), self._key.encode()):
            raise _Refused(401, "this engine answers only those who have its key")
        messages, prompt = _text(request, "messages"), _text(request, "text_input")
        if (messages is None) == (prompt is None):
            raise _Refused(400, "give either messages or text_input")
        try:
            sampling = _text(request, "sampling_parameters")
            body = json.loads(sampling) if sampling else {k: v for k, v in given.items() if k not in _NOT_SAMPLING}
            body |= {"prompt": prompt} if messages is None else {"messages": json.loads(messages)}
        except (ValueError, TypeError) as e:
            raise _Refused(400, f"messages and sampling_parameters must be JSON ({e})") from None
        if body.pop("n", 1) not in (1, None):
            raise _Refused(400, "n: one request has one answer here")
        if body.get("tools") and not self._has_tools:  # llama.cpp would leave them out without a word
            raise _Refused(400, "tools: the chat template of this model has no place for them")
        adapter = _text(request, "adapter") or None
        if adapter is not None and adapter not in self._adapters:
            raise _Refused(404, f"no adapter is called {adapter!r}; loaded: {', '.join(self._adapters) or 'none'}")
        if self._adapters:
            body["lora"] = [{"id": i, "scale": float(name == adapter)} for i, name in enumerate(self._adapters)]
        # Always a stream on the inside: only between two pieces can an answer be given up.
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        wants = pb_utils.get_input_tensor_by_name(request, "stream")
        return messages is not None, body, wants is not None and bool(wants.as_numpy().reshape(-1)[0])

    def _answer(self, sender: Any, chat: bool, body: dict[str, Any], stream: bool) -> None:
        self._load.change(waiting=-1, running=1)
        answer = _Answer(sender, stream)
        try:
            if not sender.is_cancelled():
                handle = self._server.handle_chat_completions if chat else self._server.handle_completions
                handle(body, answer.take)
            answer.end()
        except ValueError as e:  # what llama.cpp refuses before it begins
            _fail(sender, 400, str(e))
        except Exception as e:
            _fail(sender, 500, f"{type(e).__name__}: {e}")
        finally:
            self._load.change(running=-1)


class _Answer:
    """What llama.cpp says for one request, as Triton's responses: each piece its own, or all in one."""

    def __init__(self, sender: Any, stream: bool) -> None:
        self._sender, self._stream = sender, stream
        self._kept: list[dict[str, Any]] = []
        self._usage: dict[str, int] = {}
        self._error: dict[str, Any] = {}
        self._failure: Exception | None = None
        self._cancelled = False

    def take(self, chunk: dict[str, Any]) -> bool:
        """One chunk of OpenAI's protocol; true ends the generation. (What a callback raises, the library swallows.)"""
        try:
            self._error = chunk.get("error") or self._error
            self._usage = chunk.get("usage") or self._usage
            for choice in chunk.get("choices", []):
                if choice.get("delta", {}).get("role") and not choice["finish_reason"]:
                    continue  # the chunk that only says whose turn it is
                self._kept.append(choice)
                if self._stream and not choice["finish_reason"]:  # the last one goes with the usage
                    self._send(0)
            self._cancelled = self._sender.is_cancelled()
        except Exception as e:
            self._failure = e
        return self._cancelled or self._failure is not None or bool(self._error)

    def end(self) -> None:
        """The rest, and that it is the rest."""
        if self._failure is not None:
            raise self._failure
        if self._error:
            _fail(self._sender, int(self._error.get("code") or 500), str(self._error.get("message")))
        elif self._cancelled or not self._kept:
            self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._send(pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, flags: int) -> None:
        kept, self._kept = self._kept, []
        said = [c["text"] if "text" in c else c["delta"].get("content") or "" for c in kept]
        outputs = [
            _strings("text_output", "".join(said)),
            _strings("finish_reason", kept[-1]["finish_reason"] or ""),
            _strings("chunks", json.dumps(kept)),
            _count("num_input_tokens", self._usage.get("prompt_tokens", 0)),
            _count("num_output_tokens", self._usage.get("completion_tokens", 0)),
        ]
        self._sender.send(pb_utils.InferenceResponse(output_tensors=outputs), flags)


class _Load:
    """Requests running and waiting, as metrics of Triton's own page."""

    def __init__(self, model: str) -> None:
        self._lock = threading.Lock()
        self._now = {"running": 0, "waiting": 0}
        self._metrics = {}
        for name in self._now:
            family = pb_utils.MetricFamily(
                name=f"pilothouse_llm_requests_{name}",
                description=f"Requests {name} in the model",
                kind=pb_utils.MetricFamily.GAUGE,
            )
            self._metrics[name] = (family, family.Metric(labels={"model": model}))

    def change(self, **by: int) -> None:
        """Add to the figures."""
        with self._lock:
            for name, step in by.items():
                self._now[name] += step
                self._metrics[name][1].set(self._now[name])


class _Refused(Exception):
    """A request that cannot be answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _template_has_tools(address: str, key: str) -> bool:
    asked = urllib.request.Request(f"{address}/props", headers={"Authorization": f"Bearer {key}"})
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxy.open(asked, timeout=30) as answer:
        return bool(json.load(answer).get("chat_template_caps", {}).get("supports_tools"))


def _fail(sender: Any, status: int, message: str) -> None:
    code = {400: pb_utils.TritonError.INVALID_ARG, 404: pb_utils.TritonError.NOT_FOUND}.get(status)
    error = pb_utils.TritonError(f"[{status}] {message}", *([] if code is None else [code]))
    sender.send(pb_utils.InferenceResponse(error=error), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _text(request: Any, name: str) -> str | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else str(tensor.as_numpy().reshape(-1)[0].decode())


def _strings(name: str, value: str) -> Any:
    return pb_utils.Tensor(name, np.array([value.encode()], dtype=np.object_))


def _count(name: str, value: int) -> Any:
    return pb_utils.Tensor(name, np.array([value], dtype=np.uint32))
