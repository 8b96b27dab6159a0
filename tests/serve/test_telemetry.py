"""Spans of exchanges: the real SDK against a receiver that decodes OTLP; failures counted, said once, never raised."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.records import Finding
from pilothouse.serve import telemetry
from pilothouse.serve.gateway.record import Exchange
from pilothouse.serve.telemetry import Spans, open_spans

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AT = 1_790_000_000.25
EXCHANGE = Exchange(
    id="x-1",
    at=AT,
    release="airline-0011223344",
    model="airline",
    caller="desk",
    stream=True,
    status=200,
    ttft_ms=50.0,
    latency_ms=500.0,
    tokens_in=70,
    tokens_out=24,
    guard="redacted",
    findings=(Finding("pii", "email", 1.0, 3, 9, "redact"),),
    request=[{"role": "user", "content": "Where is my bag?"}],
    answer="At the desk.",
    api="chat",
    key=7,
    backend="http://127.0.0.1:8001",
    finish="stop",
    queue_ms=1.5,
    overhead_us=61.0,
    trace=CALLERS,
    span="00f067aa0ba902b7",
)


class Collector:
    """An OTLP/HTTP receiver on loopback. `answers` are given first, then 200; `open` cleared makes it wait."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        self.answers: list[int] = []
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.open.wait(20)
                status = outer.answers.pop(0) if outer.answers else 200
                if status == 200:
                    outer.paths.append(self.path)
                    outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def spans(self) -> list[Any]:
        return [s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    def stop(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own OpenTelemetry and proxy settings must not reach the SDK under test."""
    import os

    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def opened(url: str, *, text: bool = False, said: list[str] | None = None, **environ: str) -> Spans:
    found = open_spans(
        record_text=text,
        environ={"OTEL_EXPORTER_OTLP_ENDPOINT": url, **environ},
        note=(said if said is not None else []).append,
    )
    assert found is not None
    return found


def sent(collector: Collector, *exchanges: Exchange, text: bool = False) -> list[Any]:
    spans = opened(collector.url, text=text)
    for exchange in exchanges:
        spans.add(exchange)
    spans.close()
    assert (spans.failed, spans.dropped) == (0, 0)
    return collector.spans()


def plain(attributes: Any) -> dict[str, Any]:
    def value(v: Any) -> Any:
        kind = v.WhichOneof("value")
        return [value(x) for x in v.array_value.values] if kind == "array_value" else getattr(v, kind)

    return {a.key: value(a.value) for a in attributes}


def altered(**changes: Any) -> Exchange:
    return msgspec.structs.replace(EXCHANGE, **changes)


def test_an_exchange_is_one_client_span_with_its_own_times_in_its_callers_trace(collector: Collector) -> None:
    (span,) = sent(collector, EXCHANGE)
    assert collector.paths == ["/v1/traces"]
    assert span.name == "chat airline" and span.kind == span.SPAN_KIND_CLIENT
    assert span.trace_id.hex() == CALLERS.split("-")[1] and span.parent_span_id.hex() == CALLERS.split("-")[2]
    assert span.span_id.hex() == EXCHANGE.span
    assert span.start_time_unix_nano == int(AT * 1e9)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 500_000_000
    assert span.status.code == span.status.STATUS_CODE_UNSET
    first, found = span.events
    assert first.name == "gen_ai.server.time_to_first_token"
    assert first.time_unix_nano - span.start_time_unix_nano == 50_000_000
    assert found.name == "pilothouse.finding" and plain(found.attributes) == {
        "pilothouse.detector": "pii",
        "pilothouse.category": "email",
        "pilothouse.action": "redact",
        "pilothouse.score": 1.0,
    }
    assert plain(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pilothouse",
        "gen_ai.request.model": "airline",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "airline",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.05,
        "gen_ai.server.time_to_first_token": 0.05,
        "gen_ai.usage.input_tokens": 70,
        "gen_ai.usage.output_tokens": 24,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": 8001,
        "pilothouse.exchange": "x-1",
        "pilothouse.release": "airline-0011223344",
        "pilothouse.api": "chat",
        "pilothouse.guard": "redacted",
        "pilothouse.key": 7,
        "pilothouse.caller": "desk",
        "pilothouse.backend": "http://127.0.0.1:8001",
        "pilothouse.queue_ms": 1.5,
        "pilothouse.overhead_us": 61.0,
    }


def test_every_name_is_one_of_the_conventions_or_ours() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, server_attributes
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
    from opentelemetry.semconv.attributes import error_attributes, http_attributes

    modules = (gen_ai_attributes, server_attributes, error_attributes, http_attributes, gen_ai_metrics)
    known = {v for m in modules for v in vars(m).values() if isinstance(v, str)}
    old = {"gen_ai.system", "gen_ai.prompt", "gen_ai.completion", "gen_ai.usage.prompt_tokens"}
    for exchange in (EXCHANGE, altered(status=503, stream=False)):
        used = set(telemetry.attributes_of(exchange, provider="vllm", text=True))
        assert {n for n in used if not n.startswith("pilothouse.")} <= known - old


def test_text_leaves_only_when_recording_it_is_on_and_in_the_conventions_form(collector: Collector) -> None:
    (bare,) = sent(collector, EXCHANGE)
    assert not any("messages" in a.key for a in bare.attributes) and b"my bag" not in bare.SerializeToString()
    (_, full, blocked) = sent(collector, EXCHANGE, altered(request=None, answer=None, guard="blocked"), text=True)
    said = plain(full.attributes)
    assert json.loads(said["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Where is my bag?"}]}
    ]
    assert json.loads(said["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "At the desk."}], "finish_reason": "stop"}
    ]
    assert not any("messages" in a.key for a in blocked.attributes)


def test_tools_and_pictures_keep_their_place_without_their_bytes() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"bag": 1}'}}
    pieces = [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    request = [
        {"role": "user", "content": pieces},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        "a bare prompt",
    ]
    found = telemetry.attributes_of(altered(request=request), provider="p", text=True)["gen_ai.input.messages"]
    assert json.loads(found) == [
        {"role": "user", "parts": [{"type": "text", "content": "See"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"bag": 1}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}]},
        {"role": "user", "parts": [{"type": "text", "content": "a bare prompt"}]},
    ]


@pytest.mark.parametrize(("status", "kind"), [(400, "400"), (429, "429"), (499, "499"), (503, "503"), (0, "_OTHER")])
def test_a_failure_is_an_error_with_its_kind(status: int, kind: str, collector: Collector) -> None:
    failed = altered(status=status, ttft_ms=None, tokens_out=None, answer=None, finish="", latency_ms=None)
    (span,) = sent(collector, failed)
    said = plain(span.attributes)
    assert span.status.code == span.status.STATUS_CODE_ERROR and said["error.type"] == kind
    assert span.start_time_unix_nano == span.end_time_unix_nano and len(span.events) == 1
    assert "gen_ai.response.model" not in said and "gen_ai.usage.output_tokens" not in said


@pytest.mark.parametrize(
    ("api", "operation"),
    [("completions", "text_completion"), ("embeddings", "embeddings"), ("responses", "chat"), ("messages", "chat")],
)
def test_forms_of_the_api_have_the_conventions_operations(api: str, operation: str, collector: Collector) -> None:
    (span,) = sent(collector, altered(api=api, stream=False))
    said = plain(span.attributes)
    assert span.name == f"{operation} airline" and said["gen_ai.operation.name"] == operation
    assert "gen_ai.request.stream" not in said and "gen_ai.response.time_to_first_chunk" not in said


@pytest.mark.parametrize("trace", ["", "00-zz", "garbage\n", f"00-{'0' * 32}-{'0' * 16}-01", "ff" + CALLERS[2:]])
def test_without_a_good_traceparent_a_trace_begins_here(trace: str, collector: Collector) -> None:
    one, other = sent(collector, altered(trace=trace), altered(trace=trace, span=""))
    assert one.parent_span_id == other.parent_span_id == b""
    assert one.span_id.hex() == EXCHANGE.span and one.trace_id != other.trace_id and any(one.trace_id)
    assert any(other.span_id) and other.span_id != one.span_id


def test_a_trace_that_the_gateway_began_has_its_id_and_no_parent(collector: Collector) -> None:
    (span,) = sent(collector, altered(trace=f"00-4bf92f3577b34da6a3ce929d0e0e4736-{0:016x}-01"))
    assert span.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736" and span.parent_span_id == b""


def test_a_caller_that_does_not_sample_gets_no_span(collector: Collector) -> None:
    (span,) = sent(collector, altered(id="no", trace=f"{CALLERS[:-2]}00"), altered(id="yes"))
    assert plain(span.attributes)["pilothouse.exchange"] == "yes"


@pytest.mark.parametrize(
    ("backend", "address", "port"),
    [
        ("https://user:hunter2@api.example.com:443/v1", "api.example.com", 443),
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("http://[::1]:8001", "::1", 8001),
        ("replica-2", None, None),
        ("", None, None),
    ],
)
def test_the_engines_address_is_told_where_it_is_known(backend: str, address: str | None, port: int | None) -> None:
    found = telemetry.attributes_of(altered(backend=backend), provider="p", text=False)
    assert (found.get("server.address"), found.get("server.port")) == (address, port)
    assert "hunter2" not in json.dumps(found)


def test_who_speaks_is_pilothouse_unless_the_surroundings_say_otherwise(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(collector, EXCHANGE)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front-desk")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    sent(collector, EXCHANGE)
    first, second = (plain(r.resource_spans[0].resource.attributes) for r in collector.requests)
    assert first["service.name"] == "pilothouse" and first["service.version"]
    assert second["service.name"] == "front-desk" and second["deployment.environment.name"] == "test"


def test_spans_go_in_batches_off_the_callers_thread(collector: Collector) -> None:
    spans = opened(collector.url)
    collector.open.clear()
    before = time.monotonic()
    for _ in range(600):
        spans.add(EXCHANGE)
    assert time.monotonic() - before < 5 and spans.exported == 0  # the receiver answers nobody yet
    collector.open.set()
    spans.close()
    assert (spans.exported, spans.failed, spans.dropped) == (600, 0, 0)
    assert len(collector.spans()) == 600 and len(collector.requests) < 10


def test_a_receiver_that_is_busy_is_asked_again(collector: Collector) -> None:
    collector.answers[:] = [503]
    said: list[str] = []
    spans = opened(collector.url, said=said)
    spans.add(EXCHANGE)
    spans.close()
    assert (spans.exported, spans.failed) == (1, 0) and len(collector.spans()) == 1 and said == []


def test_a_receiver_that_refuses_is_counted_and_said_once(
    collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    collector.answers[:] = [400] * 99
    said: list[str] = []
    spans = opened(collector.url.replace("//", "//me:hunter2@"), said=said)
    for _ in range(1100):  # more than two batches
        spans.add(EXCHANGE)
    spans.close()
    assert (spans.exported, spans.failed, spans.dropped) == (0, 1100, 0)
    assert len(said) == 1 and "spans do not reach" in said[0] and "400" in said[0] and "hunter2" not in said[0]
    assert capfd.readouterr().err == ""


def test_a_receiver_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telemetry, "_CLOSE_S", 0.3)
    said: list[str] = []
    spans = opened("http://127.0.0.1:9", said=said)
    before = time.monotonic()
    for _ in range(3):
        spans.add(EXCHANGE)
    spans.close()
    assert time.monotonic() - before < 4
    assert (spans.exported, spans.failed) == (0, 3) and len(said) == 1 and "Connection refused" in said[0]
    assert capfd.readouterr().err == ""


def test_what_does_not_fit_the_queue_is_dropped_counted_and_said(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_QUEUE", 512)
    collector.open.clear()
    said: list[str] = []
    spans = opened(collector.url, said=said)
    for _ in range(2000):
        spans.add(EXCHANGE)
    collector.open.set()
    spans.close()
    assert spans.exported + spans.dropped == 2000 and spans.failed == 0
    assert 2000 - 3 * 512 <= spans.dropped <= 2000 - 512
    assert len(collector.spans()) == spans.exported and len(said) == 1 and "dropped and counted" in said[0]


def test_a_record_that_makes_no_span_is_counted_and_not_raised(collector: Collector) -> None:
    said: list[str] = []
    spans = opened(collector.url, said=said)
    spans.add(altered(at=float("nan")))
    spans.add(EXCHANGE)
    spans.close()
    assert (spans.exported, spans.failed) == (1, 1) and "could not be made" in said[0]


def test_a_file_gets_one_json_object_a_span(tmp_path: Path) -> None:
    for n in range(2):  # it is added to, not written anew
        spans = opened(f"file:{tmp_path / 'a b.jsonl'}".replace(" ", "%20"))
        spans.add(altered(id=f"x-{n}"))
        spans.close()
        assert (spans.exported, spans.failed) == (1, 0)
    lines = [json.loads(line) for line in (tmp_path / "a b.jsonl").read_text().splitlines()]
    assert [line["attributes"]["pilothouse.exchange"] for line in lines] == ["x-0", "x-1"]
    assert lines[0]["context"]["trace_id"] == "0x0af7651916cd43dd8448eb211c80319c"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_counted_and_said() -> None:
    said: list[str] = []
    spans = opened("file:/dev/full", said=said)
    spans.add(EXCHANGE)
    spans.close()
    assert spans.exported == 0 and spans.failed == 1 and "No space left" in said[0]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_there_are_no_spans(environ: Mapping[str, str]) -> None:
    assert open_spans(record_text=True, environ=environ) is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}, "no http URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "file:/nowhere/at/all/x.jsonl"}, "cannot be written"),
    ],
)
def test_a_wrong_endpoint_is_one_line_at_start(environ: Mapping[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_spans(record_text=True, environ=environ)


def test_an_endpoint_for_traces_is_used_as_it_stands(collector: Collector) -> None:
    found = open_spans(record_text=False, environ={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/in"})
    assert found is not None
    found.add(EXCHANGE)
    found.close()
    assert collector.paths == ["/in"]


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match=r"pip install 'pilothouse\[otel\]'"):
        open_spans(record_text=False, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
