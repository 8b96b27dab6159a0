"""Published SLO sets, each with its source: how this run would have fared by other people's bounds."""

from __future__ import annotations

from pilothouse.core.project.schema import Slo

_DISTSERVE = "DistServe, OSDI 2024 (v3), table of workloads"
_MLPERF = "MLPerf Inference, datacenter rules"
_GUIDELLM = "GuideLLM's SLO guide (ITL bound taken as TPOT)"


def _set(name: str, ttft: float, tpot: float, share: float, source: str) -> Slo:
    return Slo(name=name, ttft_ms=ttft, tpot_ms=tpot, attainment=share, source=source)


PROFILES: tuple[Slo, ...] = (
    _set("distserve chat 13B", 250, 100, 0.9, _DISTSERVE),
    _set("distserve chat 66B", 2500, 150, 0.9, _DISTSERVE),
    _set("distserve chat 175B", 4000, 200, 0.9, _DISTSERVE),
    _set("distserve code completion 66B", 125, 200, 0.9, _DISTSERVE),
    _set("distserve summarization 66B", 15000, 150, 0.9, _DISTSERVE),
    _set("mlperf llama-2-70b server", 2000, 200, 0.99, _MLPERF),
    _set("mlperf llama-2-70b interactive", 450, 40, 0.99, _MLPERF),
    _set("mlperf llama-3.1-8b server", 2000, 100, 0.99, _MLPERF),
    _set("mlperf llama-3.1-8b interactive", 500, 30, 0.99, _MLPERF),
    _set("mlperf llama-3.1-405b server", 6000, 175, 0.99, _MLPERF),
    _set("mlperf llama-3.1-405b interactive", 4500, 80, 0.99, _MLPERF),
    _set("mlperf deepseek-r1 server", 2000, 80, 0.99, _MLPERF),
    _set("mlperf deepseek-r1 interactive", 1500, 15, 0.99, _MLPERF),
    _set("mlperf gpt-oss-120b server", 3000, 80, 0.99, _MLPERF),
    _set("mlperf gpt-oss-120b interactive", 2000, 15, 0.99, _MLPERF),
    _set("guidellm chat", 200, 50, 0.99, _GUIDELLM),
    _set("guidellm rag", 300, 100, 0.99, _GUIDELLM),
    _set("guidellm content generation", 600, 200, 0.99, _GUIDELLM),
    _set("guidellm code generation", 500, 150, 0.99, _GUIDELLM),
)
