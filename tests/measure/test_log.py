"""The raw event log: complete, free of keys, and enough to compute any tool's figures again."""

from __future__ import annotations

from math import isnan, nan
from pathlib import Path

import msgspec
import pytest

from pilothouse.core.wire import Raw
from pilothouse.measure import calibrate, log

KEY = "sk-secret-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HEADERS = {"content-type": "text/event-stream", "connection": "close"}


def chunk(content: str, **more: object) -> bytes:
    value = {"choices": [{"index": 0, "delta": {"content": content}}], **more}
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def exchange(index: int, at: float, *, key: bool = False) -> log.Exchange:
    """Sent 1 ms late; tokens 100, 120 and 160 ms after the schedule; done at 170."""
    times = (0.1, 0.12, 0.16)
    words = (f"echo {KEY}" if key else "a ", "b ", "c")
    stamp = {"received": at + 0.002, "written": 0.0}
    pieces = [(at + t, chunk(w, null=stamp | {"written": at + t - 0.0005})) for t, w in zip(times, words, strict=True)]
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}\n\ndata: [DONE]\n\n'
    raw = Raw(at, at + 0.001, at + 0.17, ((at + 0.09, HEAD), *pieces, (at + 0.17, usage)), 200, HEADERS)
    return log.entry(index, 0, raw, KEY)


def write(path: Path, *lines: object) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def test_figures_come_out_of_the_file_as_they_went_in(tmp_path: Path) -> None:
    lost = log.entry(2, 0, Raw(53.0, nan, 54.0, (), 0, {}, "cannot connect", "connect"), "")
    path = write(
        tmp_path / "l", log.Head(50.0, 0.0, 3), exchange(1, 52.0), lost, exchange(0, 51.0), log.Tail((0.1, 0.2))
    )
    found = log.results(log.read(path))
    assert [(r.index, r.at, r.fault) for r in found] == [(0, 1.0, ""), (1, 2.0, ""), (2, 3.0, "connect")]
    first = found[0].timing
    assert first.ttft == pytest.approx(0.1)
    assert first.tpot == pytest.approx(0.03)
    assert first.latency == pytest.approx(0.17)
    assert first.dispatch_lag == pytest.approx(0.001)
    assert (found[0].prompt_tokens, found[0].completion_tokens, first.counting) == (4, 3, "usage")
    assert isnan(found[2].timing.t_send)


def test_other_tools_figures_can_be_computed_from_the_log(tmp_path: Path) -> None:
    path = write(tmp_path / "l", log.Head(50.0, 0.0, 1), exchange(0, 51.0), log.Tail(()))
    (r,) = log.results(log.read(path))
    t = r.timing
    ttft_sent = t.events[0].t - t.t_send
    assert ttft_sent == pytest.approx(0.099)  # vLLM's and AIPerf's, from the send
    assert t.gaps == pytest.approx((0.02, 0.04))  # vLLM's ITL: chunk gaps, pooled
    assert r.completion_tokens is not None
    per_token = (t.events[-1].t - t.t_send) / r.completion_tokens
    assert per_token == pytest.approx(0.159 / 3)  # GuideLLM's TPOT includes TTFT
    assert sum(t.gaps) / len(t.gaps) == pytest.approx(0.03)  # AIPerf's ITL: the mean of a request


def test_a_key_that_a_server_echoes_is_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "l", log.Head(50.0, 0.0, 1), exchange(0, 51.0, key=True), log.Tail(()))
    whole = log.raw(log.read(path).exchanges[0]).body
    assert KEY.encode() not in whole
    assert b"echo ****" in whole
    assert log.results(log.read(path))[0].fault == ""


def test_a_log_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    without_tail = write(tmp_path / "a", log.Head(50.0, 0.0, 1), exchange(0, 51.0))
    one_short = write(tmp_path / "b", log.Head(50.0, 0.0, 2), exchange(0, 51.0), log.Tail(()))
    for path in (without_tail, one_short):
        with pytest.raises(ValueError, match="cut off"):
            log.read(path)


def test_calibration_by_hand(tmp_path: Path) -> None:
    """Reported TTFT 100 ms; the server took 99.5 − 2 = 97.5 of them: the client added 2.5. Each read 0.5 ms late."""
    path = write(tmp_path / "l", log.Head(50.0, 0.0, 2), exchange(0, 51.0), exchange(1, 52.0), log.Tail(()))
    found = calibrate.judge(log.read(path))
    assert found.ttft_bias_ms == pytest.approx(2.5)
    assert found.read_lag_p50_ms == pytest.approx(0.5)
    assert found.read_lag_p99_ms == pytest.approx(0.5)
    assert (found.streams, found.chunks) == (2, 6)
