"""An engine's answers become OpenAI's on their way: however the bytes are cut, whole, streamed or an error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.serve.engines import tgi
from pilothouse.serve.gateway.translated import Translated

CHUNKS = [
    {"id": "", "model": "/data/m", "choices": [{"index": 0, "delta": {"content": t}, "finish_reason": f}]}
    for t, f in (("Grüße", None), (" 你好\n\n", None), ("", "stop_sequence"))
]


class Kept:
    """What came out."""

    def __init__(self) -> None:
        self.status, self.data = 0, b""

    def on_head(self, status: int, headers: dict[str, str], upstream: Any) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self.data += data


def through(status: int, kind: str, pieces: list[bytes]) -> Kept:
    kept = Kept()
    sink = Translated(kept, tgi.create().answers("desk", {}))
    sink.on_head(status, {"content-type": kind}, None)  # type: ignore[arg-type]
    for piece in pieces:
        sink.on_body(piece)
    sink.end()
    assert kept.status == sink.status == status
    return kept


@given(st.data(), st.sampled_from([b"data:", b"data: "]), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_streams_cut_anywhere(data: st.DataObject, lead: bytes, end: bytes) -> None:
    wire = b":" + end + b"".join(lead + json.dumps(c).encode() + end for c in CHUNKS) + lead + b"[DONE]" + end
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    out = through(200, "text/event-stream", pieces).data
    assert out.startswith(b":\n\n") and out.endswith(b"data: [DONE]\n\n")
    made = [json.loads(e[6:]) for e in out.split(b"\n\n") if e.startswith(b"data: {")]
    assert [c["choices"][0]["delta"] for c in made] == [c["choices"][0]["delta"] for c in CHUNKS]  # type: ignore[index]
    assert made[-1]["choices"][0]["finish_reason"] == "stop"
    assert {c["model"] for c in made} == {"desk"} and len({c["id"] for c in made}) == 1 and made[0]["id"]


def test_whole_answers_and_errors() -> None:
    body = json.dumps({**CHUNKS[0], "choices": [{"finish_reason": "eos_token", "text": "x"}]}).encode()
    whole = json.loads(through(200, "application/json", [body[:7], body[7:]]).data)
    assert (whole["model"], whole["choices"][0]["finish_reason"]) == ("desk", "stop")
    flat = b'{"error":"Model is overloaded","error_type":"overloaded"}'
    assert json.loads(through(429, "application/json", [flat]).data)["error"]["code"] == "overloaded"
    page = b"Failed to deserialize the JSON body"
    assert through(422, "text/plain", [page]).data == page
