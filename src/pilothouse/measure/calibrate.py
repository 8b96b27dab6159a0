"""What does our own client add? A short load on a server that knows the truth, reported beside every real figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pilothouse.core.project.schema import Slo
from pilothouse.core.records import Endpoint
from pilothouse.core.sse import SseParser
from pilothouse.measure import log
from pilothouse.measure.load import offer, plan
from pilothouse.measure.null_server import NullServer, Timetable

_STREAMS = 32
_APART_S = 0.01
TOLERATED = 0.01


@dataclass(frozen=True, slots=True)
class Calibration:
    """The client's own part, ms. ttft_bias: median of (reported TTFT − the server's own); read_lag: read − written."""

    ttft_bias_ms: float
    read_lag_p50_ms: float
    read_lag_p99_ms: float
    streams: int
    chunks: int

    def too_slow_for(self, slo: Slo) -> list[str]:
        """Which bounds this client cannot judge to 1 %: its TTFT bias or read lag is above 1 % of them."""
        found = []
        if slo.ttft_ms is not None and self.ttft_bias_ms > TOLERATED * slo.ttft_ms:
            found.append(f"TTFT bias {self.ttft_bias_ms:.2f} ms is above 1 % of the bound {slo.ttft_ms:g} ms")
        if slo.tpot_ms is not None and self.read_lag_p99_ms > TOLERATED * slo.tpot_ms:
            found.append(
                f"read lag p99 {self.read_lag_p99_ms:.2f} ms is above 1 % of the TPOT bound {slo.tpot_ms:g} ms"
            )
        return found


class _Stamp(msgspec.Struct):
    received: float
    written: float


class _Chunk(msgspec.Struct):
    null: _Stamp | None = None


def calibrate(folder: Path) -> Calibration:
    """32 overlapping streams, about a second. The log is kept in `folder` as calibration.jsonl."""
    path = folder / "calibration.jsonl"
    with NullServer(Timetable(ttft_ms=50, itl_ms=10, tokens=16)) as server:
        work = plan(
            Endpoint(server.url, "null"),
            [[{"role": "user", "content": "null"}]],
            [i * _APART_S for i in range(_STREAMS)],
            max_tokens=16,
            timeout_s=10,
            seed=0,
            log=path,
        )
        offer(work)
    return judge(log.read(path))


def judge(events: log.Log) -> Calibration:
    """The figures of a log taken from the null server."""
    biases: list[float] = []
    lags: list[float] = []
    for exchange in events.exchanges:
        parser = SseParser()
        first = True
        for t, piece in log.raw(exchange).pieces():
            for event in parser.feed(piece):
                stamp = None if event.data == b"[DONE]" else msgspec.json.decode(event.data, type=_Chunk).null
                if stamp is None:
                    continue
                lags.append((t - stamp.written) * 1e3)
                if first:
                    first = False
                    biases.append((t - exchange.t_sched - (stamp.written - stamp.received)) * 1e3)
    if not lags:
        raise RuntimeError("the calibration of the load client got no answer")
    return Calibration(
        ttft_bias_ms=float(np.median(biases)),
        read_lag_p50_ms=float(np.quantile(lags, 0.5)),
        read_lag_p99_ms=float(np.quantile(lags, 0.99)),
        streams=len(biases),
        chunks=len(lags),
    )
