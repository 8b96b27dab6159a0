"""What does the gateway say of itself? Its health and its Prometheus figures, or why they cannot be had."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections import defaultdict
from typing import Any

import msgspec

_WAIT_S = 2.0
_OWN = ssl.create_default_context()
"""For our own gateway on this machine: whoever could stand in for it could read its key file too."""
_OWN.check_hostname, _OWN.verify_mode = False, ssl.CERT_NONE


class _Engine(msgspec.Struct):
    ready: bool = False
    restarts: int = 0
    failure: str = ""


class _Health(msgspec.Struct):
    """The gateway's `/healthz`."""

    status: str
    models: list[str] = []
    engine: _Engine = msgspec.field(default_factory=_Engine)


def health(metrics_url: str | None) -> dict[str, Any]:
    """`/healthz` as data, with `reachable`; 503 (engine not ready) is an answer too."""
    if metrics_url is None:
        return {"reachable": False, "why": "the console was started without a gateway"}
    try:
        said = msgspec.json.decode(_get(metrics_url.removesuffix("/metrics") + "/healthz"), type=_Health)
        return {"reachable": True, **msgspec.to_builtins(said)}
    except (OSError, ValueError) as e:
        return {"reachable": False, "why": _why(e)}


def figures(metrics_url: str | None) -> dict[str, Any]:
    """The gateway's own counters since it started, summed over models; `models` has them one by one."""
    if metrics_url is None:
        return {"reachable": False, "why": "the console was started without a gateway"}
    try:
        return {"reachable": True, **summarise(_get(metrics_url).decode())}
    except (OSError, ValueError, KeyError) as e:
        return {"reachable": False, "why": _why(e)}


def summarise(text: str) -> dict[str, Any]:
    """The exposition's samples under the names that the page shows."""
    from prometheus_client.parser import text_string_to_metric_families

    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    models: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    statuses: dict[str, float] = defaultdict(float)
    decisions: dict[str, float] = defaultdict(float)
    plain: dict[str, float] = {}
    engines: dict[str, dict[str, float]] = defaultdict(dict)
    short = {
        "gen_ai_server_time_to_first_token_seconds_sum": "ttft_s",
        "gen_ai_server_time_to_first_token_seconds_count": "first_tokens",
        "gen_ai_server_request_duration_seconds_sum": "busy_s",
        "gen_ai_server_request_duration_seconds_count": "answers",
    }
    for s in samples:
        model = s.labels.get("model", "")
        if s.name == "pilothouse_requests_total":
            statuses[s.labels.get("status", "")] += s.value
            models[model]["requests"] += s.value
        elif s.name == "gen_ai_client_token_usage_total":
            models[model][f"tokens_{s.labels.get('type', '')}"] += s.value
        elif s.name == "pilothouse_guard_decisions_total":
            detector = s.labels.get("detector", "")
            decisions[s.labels.get("decision", "") + (f" by {detector}" if detector else "")] += s.value
        elif s.name in short:
            models[model][short[s.name]] += s.value
        elif s.name.startswith("pilothouse_engine_"):
            engines[s.labels.get("engine", "")][s.name.removeprefix("pilothouse_engine_")] = s.value
        elif s.name.startswith("pilothouse_") and not s.labels:
            plain[s.name.removeprefix("pilothouse_")] = s.value
    return {
        "requests": sum(statuses.values()),
        "in_flight": plain.get("requests_in_flight", 0.0),
        "waiting": plain.get("requests_waiting", 0.0),
        "engine_ready": any(e.get("ready") for e in engines.values()) if engines else None,
        "engine_restarts": sum(e.get("restarts", 0.0) for e in engines.values()),
        "engines": {name: _engine(said) for name, said in sorted(engines.items())},
        "exchanges_dropped": plain.get("exchanges_dropped", 0.0),
        "statuses": dict(sorted(statuses.items())),
        "guard": dict(sorted(decisions.items())),
        "models": {name: _model(of) for name, of in sorted(models.items()) if of["requests"]},
    }


def _engine(said: dict[str, float]) -> dict[str, Any]:
    return {
        "ready": said.get("ready") == 1.0,
        "left_alone": said.get("circuit_open") == 1.0,
        "restarts": said.get("restarts", 0.0),
        "running": said.get("requests_running", 0.0),
        "tokens_outstanding": said.get("tokens_outstanding", 0.0),
        "kv_used": said.get("told_kv_used"),
    }


def _model(of: dict[str, float]) -> dict[str, float | None]:
    return {
        "requests": of["requests"],
        "ttft_mean_ms": of["ttft_s"] / of["first_tokens"] * 1e3 if of["first_tokens"] else None,
        "latency_mean_ms": of["busy_s"] / of["answers"] * 1e3 if of["answers"] else None,
        "tokens_in": of["tokens_input"],
        "tokens_out": of["tokens_output"],
    }


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_WAIT_S, context=_OWN if url.startswith("https:") else None) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as e:
        if e.code != 503:
            raise
        body = e.read()
    return body


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"the gateway does not answer ({reason})"
