"""Where each of the gateway's figures lies in a row of shared memory: counts by status, then the histograms.

Edges are vLLM's (vllm/v1/metrics/loggers.py), so that a dashboard made for it shows both; names follow OpenTelemetry's
GenAI conventions where they exist.
"""

from __future__ import annotations

# fmt: off
_TTFT = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
_TPOT = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_LATENCY = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_OVERHEAD = (.00005, .0001, .00015, .0002, .0003, .0005, .001, .002, .005, .015, .05, .25)
# fmt: on
HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("gen_ai_server_time_to_first_token_seconds", "TTFT, from the request's last byte to the first token out", _TTFT),
    ("gen_ai_server_time_per_output_token_seconds", "TPOT of streams, after the first token", _TPOT),
    ("gen_ai_server_request_duration_seconds", "Whole requests", _LATENCY),
    ("pilothouse_request_queue_seconds", "Wait for admission", _LATENCY),
    ("pilothouse_overhead_seconds", "What the gateway added before the answer began, guard included", _OVERHEAD),
    ("pilothouse_request_prompt_tokens", "Tokens of a prompt", _TOKENS),
    ("pilothouse_request_generation_tokens", "Tokens of an answer", _TOKENS),
)
TTFT, TPOT, LATENCY, QUEUE, OVERHEAD, PROMPT, GENERATION = range(len(HISTOGRAMS))
STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 422, 429, 499, 500, 501, 502, 503, 504, 0)
"""0: any other."""
STATUS_COLUMN = {status: i for i, status in enumerate(STATUSES)}

EDGES = tuple(edges for _, _, edges in HISTOGRAMS)
FIRST = []
_at = len(STATUSES)
for _, _, _edges in HISTOGRAMS:
    FIRST.append(_at)
    _at += len(_edges) + 2  # one count an edge, one beyond them all, the sum
COLUMNS = _at
