"""What does a tracing back end hear of the gateway? One OpenTelemetry span an exchange, in the GenAI conventions.

Spans are made from finished records, in the control process, with the record's own times: nothing here is on a
request's path. Names follow the conventions' repository (open-telemetry/semantic-conventions-genai, development
status); what they have no word for begins with `pilothouse.`. A span is CLIENT, as the conventions ask of an
inference: the call to the engine, child of the caller's span.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote, urlsplit

from pilothouse.core.errors import MissingExtra, UserError
from pilothouse.core.records import to_json
from pilothouse.core.redact import mask
from pilothouse.serve.gateway.record import Exchange

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

_QUEUE = 8192  # spans; about 4 kB each without text
_CLOSE_S = 5.0
_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}
_BEGUN_HERE = re.compile(r"00-([0-9a-f]{32})-0{16}-01")  # the gateway's own trace: there is no parent
_ADDRESS = re.compile(r"(?:\w+://)?([^/@]+@)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d+)(?:/|$)")


def open_spans(
    *,
    record_text: bool,
    provider: str = "pilothouse",
    environ: Mapping[str, str] = os.environ,
    note: Callable[[str], None] | None = None,
) -> Spans | None:
    """Spans to where OpenTelemetry's own variables point, else None.

    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is a full URL, OTEL_EXPORTER_OTLP_ENDPOINT one that `/v1/traces` is added to;
    `file:PATH` means JSON lines. The SDK reads its other variables itself (headers, sampler, resource, limits).
    """
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    full, base = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if off or not (full or base):
        return None
    variable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if full else "OTEL_EXPORTER_OTLP_ENDPOINT"
    target = full or base or ""
    if not target.startswith("file:"):
        if urlsplit(target).scheme not in ("http", "https"):
            raise UserError(f"{target!r} is no http URL and no file:PATH", where=variable)
        spoken = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if spoken not in (None, "", "http/protobuf"):
            raise UserError(
                f"spans are sent as http/protobuf, not {spoken!r}",
                where="OTEL_EXPORTER_OTLP_PROTOCOL",
                fix="Point the endpoint at the collector's HTTP port (4318 by default).",
            )
        target = target if full else f"{target.rstrip('/')}/v1/traces"
    return Spans(target, record_text=record_text, provider=provider, note=note)


class Spans:
    """Turns exchanges into spans and sends them in batches from a thread. Nothing it does raises or waits.

    exported, failed (the back end did not take them) and dropped (the queue was full) count spans.
    """

    def __init__(self, target: str, *, record_text: bool, provider: str, note: Callable[[str], None] | None) -> None:
        try:
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise MissingExtra("opentelemetry-sdk", "otel", "sending spans") from None

        self.exported = self.failed = self.dropped = 0
        self._taken = self._handed = 0  # spans that went into the queue and out of it
        self._target, self._text, self._provider = target, record_text, provider
        self._note = note or logging.getLogger(__name__).warning
        self._said = False
        self._file: TextIO | None = None
        self._exporter = self._counted(self._out())
        self._reason = _Reason()
        self._processor = BatchSpanProcessor(self._exporter, max_queue_size=_QUEUE)
        self._ids = _ids()
        made = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        made.add_span_processor(self._processor)
        self._tracer = made.get_tracer("pilothouse.gateway")
        self._extract = TraceContextTextMapPropagator().extract
        self._lock = threading.Lock()

    def add(self, exchange: Exchange) -> None:
        """Queue the exchange's span; where its caller's trace is not sampled, there is none."""
        try:
            self._add(exchange)
        except Exception as e:  # a span that cannot be made must not take the control process with it
            self.failed += 1
            self._say(f"a span could not be made ({type(e).__name__}: {e})")

    def close(self) -> None:
        """Send what is queued, for a few seconds at most."""
        ending = threading.Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)
        if ending.is_alive():
            self._exporter.shutdown()  # ends the wait between two tries; what is left fails at once
            ending.join(1.0)
        self.failed += self._taken - self._handed
        self._reason.close()
        with suppress(OSError):  # a full disk was said when it was met
            if self._file is not None:
                self._file.close()

    def _add(self, exchange: Exchange) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        start = int(exchange.at * 1e9)
        attributes = attributes_of(exchange, provider=self._provider, text=self._text)
        name = f"{attributes['gen_ai.operation.name']} {exchange.model}"
        with self._lock:
            if self._taken - self._handed >= _QUEUE:
                self.dropped += 1
                self._say("more spans than can be sent; what does not fit the queue is dropped and counted")
                return
            begun = _BEGUN_HERE.fullmatch(exchange.trace)
            self._ids.span, self._ids.trace = exchange.span, begun[1] if begun else ""
            parent: Context = self._extract({"traceparent": exchange.trace})
            span = self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes, start_time=start)
            if not span.is_recording():
                return
            self._taken += 1
        if exchange.ttft_ms is not None:
            span.add_event("gen_ai.server.time_to_first_token", timestamp=start + int(exchange.ttft_ms * 1e6))
        for found in exchange.findings:
            said = {f"pilothouse.{k}": getattr(found, k) for k in ("detector", "category", "action", "score")}
            span.add_event("pilothouse.finding", said, timestamp=start)
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(start + int((exchange.latency_ms or 0.0) * 1e6))

    def _out(self) -> SpanExporter:
        if not self._target.startswith("file:"):
            try:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            except ImportError:
                raise MissingExtra("opentelemetry-exporter-otlp-proto-http", "otel", "sending spans") from None
            return OTLPSpanExporter(endpoint=self._target)
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        path = Path(unquote(urlsplit(self._target).path))
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as e:
            raise UserError(f"spans cannot be written ({e.strerror})", where=str(path)) from None
        return ConsoleSpanExporter(out=self._file, formatter=lambda span: span.to_json(indent=None) + "\n")

    def _counted(self, inner: SpanExporter) -> SpanExporter:
        """`inner`, its outcome counted and a failure said."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

        outer = self

        class Counted(SpanExporter):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                outer._handed += len(spans)
                outer._reason.first = ""
                try:
                    result, why = inner.export(spans), ""
                except Exception as e:  # a full disk, for one
                    result, why = SpanExportResult.FAILURE, str(e)
                if result is SpanExportResult.SUCCESS:
                    outer.exported += len(spans)
                else:
                    outer.failed += len(spans)
                    outer._say(f"spans do not reach {outer._target} ({why or outer._reason.first or 'refused'})")
                return result

            def shutdown(self) -> None:
                inner.shutdown()

        return Counted()

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            self._note(mask(f"{what}; said once, counted from now on"))


def attributes_of(exchange: Exchange, *, provider: str, text: bool) -> dict[str, Any]:
    """The span's attributes; messages only with `text`, and only where the exchange kept them."""
    failed = exchange.status >= 400 or exchange.status == 0
    found: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS.get(exchange.api, "chat"),
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": exchange.model,
        "gen_ai.request.stream": True if exchange.stream else None,  # only where it is streaming, say the conventions
        "gen_ai.response.model": None if failed else exchange.model,
        "gen_ai.response.finish_reasons": exchange.finish.split(",") if exchange.finish else None,
        "gen_ai.usage.input_tokens": exchange.tokens_in,
        "gen_ai.usage.output_tokens": exchange.tokens_out,
        "error.type": (str(exchange.status) if exchange.status else "_OTHER") if failed else None,
        "http.response.status_code": exchange.status or None,
        "pilothouse.exchange": exchange.id,
        "pilothouse.release": exchange.release,
        "pilothouse.api": exchange.api,
        "pilothouse.guard": exchange.guard,
        "pilothouse.key": exchange.key or None,
        "pilothouse.caller": exchange.caller or None,
        "pilothouse.backend": mask(exchange.backend) or None,
        "pilothouse.queue_ms": exchange.queue_ms,
        "pilothouse.overhead_us": exchange.overhead_us,
    }
    if exchange.ttft_ms is not None:
        found["gen_ai.server.time_to_first_token"] = exchange.ttft_ms / 1e3
        if exchange.stream:
            found["gen_ai.response.time_to_first_chunk"] = exchange.ttft_ms / 1e3
    if at := _ADDRESS.match(exchange.backend):
        found |= {"server.address": at[2].strip("[]"), "server.port": int(at[3])}
    if text and exchange.request is not None:
        found["gen_ai.input.messages"] = to_json([_message(m) for m in exchange.request]).decode()
    if text and exchange.answer is not None and not failed:
        answer = {"role": "assistant", "parts": [_part(exchange.answer)], "finish_reason": exchange.finish or "stop"}
        found["gen_ai.output.messages"] = to_json([answer]).decode()
    return {name: value for name, value in found.items() if value is not None}


def _message(message: Any) -> dict[str, Any]:
    """A request's message in the conventions' form. Pictures and sounds are named, not sent."""
    if not isinstance(message, dict):
        return {"role": "user", "parts": [_part(message)]}
    role, content = str(message.get("role", "user")), message.get("content")
    if role == "tool":
        answer = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return {"role": role, "parts": [answer]}
    pieces = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    parts = [_part(piece) for piece in pieces]
    for call in message.get("tool_calls") or ():
        asked = call.get("function") or {}
        parts.append({"type": "tool_call", "id": call.get("id"), **{k: asked.get(k) for k in ("name", "arguments")}})
    return {"role": role, "parts": parts}


def _part(piece: Any) -> dict[str, Any]:
    said = piece.get("text") if isinstance(piece, dict) else str(piece)
    return {"type": "text", "content": said} if isinstance(said, str) else {"type": str(piece.get("type", "other"))}


class _Reason(logging.Handler):
    """Keeps the SDK's log off the terminal (it repeats itself every batch) and the first reason of a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""
        self._logger = logging.getLogger("opentelemetry")
        self._before, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._before
        super().close()


def _ids() -> Any:
    """Ids for the SDK: those that the gateway gave and sent upstream, else random ones."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        span = trace = ""

        def generate_span_id(self) -> int:
            return int(self.span or "0", 16) or super().generate_span_id()

        def generate_trace_id(self) -> int:
            return int(self.trace or "0", 16) or super().generate_trace_id()

    return Ids()


def _resource() -> Any:
    """Who speaks: `pilothouse` and its version, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    from pilothouse import __version__

    ours = {"service.name": "pilothouse", "service.version": __version__}
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})
