"""The gateway's own figures in Prometheus' text format, with OpenTelemetry's GenAI words where they exist."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_OVERHEAD = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.015, 0.05)


class Metrics:
    """Counters and histograms of one gateway, on a registry of their own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        model = ["model"]
        self.requests = Counter("pilothouse_requests", "Requests answered", ["model", "status"], registry=r)
        self.in_flight = Gauge("pilothouse_requests_in_flight", "Requests being answered", registry=r)
        self.ttft = Histogram("gen_ai_server_time_to_first_token_seconds", "TTFT", model, buckets=_TTFT, registry=r)
        self.latency = Histogram(
            "gen_ai_server_request_duration_seconds", "Whole requests", model, buckets=_LATENCY, registry=r
        )
        self.tokens = Counter("gen_ai_client_token_usage", "Tokens", ["model", "type"], registry=r)
        self.guard = Counter("pilothouse_guard_decisions", "Guard decisions", ["decision", "detector"], registry=r)
        self.guard_seconds = Histogram(
            "pilothouse_guard_input_seconds", "Time of the input guard", buckets=_OVERHEAD, registry=r
        )
        self.restarts = Gauge("pilothouse_engine_restarts", "Restarts of the engine since start", registry=r)
        self.ready = Gauge("pilothouse_engine_ready", "1 while the engine answers", registry=r)
        self.dropped = Gauge("pilothouse_exchanges_dropped", "Exchanges not recorded: the queue was full", registry=r)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
