"""What is known of TGI: how it is launched, which requests it takes, what its answers and its log mean."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.serve.base import EngineSpec
from pilothouse.serve.engines import tgi

TGI = tgi.create()


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    for name in ("model", "one", "two"):
        (tmp_path / name).mkdir()
    adapters = (("one", tmp_path / "one"), ("two", tmp_path / "two"))
    return EngineSpec(tmp_path / "model", "desk", adapters, context=512, streams=3)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program of the launcher's name on PATH that runs the given Python."""

    def made(code: str) -> Path:
        path = tmp_path / "bin" / tgi.LAUNCHER
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return path

    return made


def test_it_runs_where_its_launcher_is(launcher: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    absent = TGI.check()
    assert not absent.runs and "not on PATH" in absent.reason and "serve.options.url" in absent.install
    launcher("")
    assert TGI.check().runs


def test_launched_with_the_projects_settings_and_a_key_that_no_argument_holds(
    spec: EngineSpec, launcher: Callable[[str], Path]
) -> None:
    program = launcher("")
    options = {"quantize": "fp8", "num_shard": 2, "max_batch_total_tokens": 9000, "trust_remote_code": True}
    launch = TGI.launch(replace(spec, options=options), 4711)
    line = " ".join(launch.argv)
    for flags in (
        f"pilothouse.serve.engines._tgi_process {program} --model-id {spec.model} --hostname 127.0.0.1 --port 4711",
        "--max-input-tokens 511 --max-total-tokens 512 --max-batch-size 3",
        f"--lora-adapters one={spec.adapters[0][1]},two={spec.adapters[1][1]}",
        "--num-shard 2 --quantize fp8",
        "--max-concurrent-requests 128 --max-batch-total-tokens 9000 --cuda-memory-fraction 1.0",
        "--usage-stats off --json-output",
    ):
        assert flags in line
    assert line.endswith("--trust-remote-code") and launch.url == "http://127.0.0.1:4711"
    assert launch.env["API_KEY"] == launch.api_key and launch.api_key not in line and len(launch.api_key) >= 32
    assert launch.env["LOG_LEVEL"] == "warn"  # at info the launcher writes its arguments, the key among them
    assert TGI.launch(spec, 1).api_key != TGI.launch(spec, 1).api_key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": {"quantise": "fp8"}}, "no option 'quantise'. Did you mean 'quantize'"),
        ({"options": {"quantize": "int3"}}, "'int3' is not possible. One of: awq"),
        ({"options": {"quantize": "fp8", "dtype": "float16"}}, "do not go together"),
        ({"options": {"num_shard": True}}, "'num_shard' as a whole number, got True"),
        ({"options": {"url": "http://127.0.0.1:1", "speculate": 2}}, "'speculate' has no effect with option 'url'"),
        ({"options": {"url": "http://127.0.0.1:1"}}, "/info does not answer"),
        ({"needs": frozenset({"embeddings"})}, "cannot do what this project needs: embeddings"),
        ({"adapters": (("tgi", Path("x")),)}, "takes no name 'tgi'"),
        ({"adapters": (("a", Path("x,y")),)}, "no '=', ',' or '@'"),
        ({"model": Path("/gone")}, "/gone: no such folder"),
    ],
)
def test_what_it_cannot_is_said_at_launch(
    spec: EngineSpec, launcher: Callable[[str], Path], change: dict[str, Any], says: str
) -> None:
    launcher("")
    with pytest.raises(UserError, match=says):
        TGI.launch(replace(spec, **change), 1)


def test_without_the_launcher_a_url_is_asked_for(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"not on PATH.*Set serve.options.url"):
        TGI.launch(spec, 1)


def test_with_adapters_there_is_no_prefix_cache(spec: EngineSpec) -> None:
    assert "prefix_cache" not in TGI.can(spec) and "prefix_cache" in TGI.can(replace(spec, adapters=()))


def test_the_models_name_chooses_the_adapter_and_an_unknown_one_is_refused(spec: EngineSpec) -> None:
    assert (TGI.fields("two", spec), TGI.fields(None, spec)) == ({"model": "two"}, {"model": "tgi"})
    with pytest.raises(UserError, match=r"no adapter is called 'three'.*one, two"):
        TGI.fields("three", spec)


CHAT: dict[str, Any] = {"model": "tgi", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "tgi", "prompt": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("body", "given", "becomes"),
    [
        (CHAT, {"stop": "END", "top_p": 1, "seed": -1}, {"stop": ["END"], "seed": 2**64 - 1}),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        (CHAT, {"n": 1, "presence_penalty": 0, "logit_bias": {}, "tools": [], "stop": [], "stream": None}, {}),
        (CHAT, {"user": "u", "metadata": {}, "store": True, "parallel_tool_calls": True}, {}),
        (CHAT, {"response_format": {"type": "text"}, "logprobs": False}, {}),
        (
            CHAT,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            {"response_format": {"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}}},
        ),
        (
            CHAT,
            {"response_format": {"type": "regex", "value": "a+"}},
            {"response_format": {"type": "regex", "value": "a+"}},
        ),
        (
            CHAT,
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
                    }
                ]
            },
        ),
        (TEXT, {"logprobs": None, "echo": False, "stream_options": {"include_usage": True}, "suffix": ""}, {}),
    ],
)
def test_requests_in_openais_form_become_tgis(body: Any, given: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert TGI.rewrite({**body, **given}) == {**body, **becomes}


@pytest.mark.parametrize(
    ("body", "given", "says"),
    [
        (CHAT, {"n": 2}, "n cannot be served .it makes one answer a request"),
        (
            CHAT,
            {"presence_penalty": 0.5},
            "presence_penalty cannot be served .it would take the number for a repetition",
        ),
        (CHAT, {"logit_bias": {"5": 1}}, "logit_bias cannot be served"),
        (CHAT, {"top_k": 5}, "top_k cannot be served .it has no such field"),
        (CHAT, {"response_format": {"type": "json_object"}}, "'json_object' cannot be served without a schema"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string"}}}},
            "schema without 'properties'",
        ),
        (TEXT, {"logprobs": 2}, "logprobs cannot be served .its text completions carry none"),
        (TEXT, {"echo": True}, "echo cannot be served"),
        (TEXT, {"best_of": 3}, "best_of cannot be served"),
        ({"model": "tgi", "prompt": [1, 2]}, {}, "a prompt of token ids"),
    ],
)
def test_what_tgi_would_drop_is_refused(body: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TGI.rewrite({**body, **given})


def test_text_and_calls_of_one_message_become_two_messages() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    both = {"role": "assistant", "content": "Let me look.", "tool_calls": calls}
    made = TGI.rewrite({**CHAT, "messages": [both, {"role": "assistant", "content": None, "tool_calls": calls}]})
    only = {"role": "assistant", "tool_calls": calls}
    assert made["messages"] == [{"role": "assistant", "content": "Let me look."}, only, only]


def test_answers_become_openais() -> None:
    whole = TGI.answers("desk", {})(
        {"id": "", "model": "/data/m", "choices": [{"index": 0, "finish_reason": "eos_token"}]}
    )
    assert whole["model"] == "desk" and whole["id"] and whole["choices"][0]["finish_reason"] == "stop"
    stream = TGI.answers("desk", {})
    first = stream({"id": "", "choices": [{"delta": {"tool_calls": [{"id": "0"}]}, "finish_reason": None}]})
    last = stream({"id": "", "choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]})
    assert last["choices"][0]["finish_reason"] == "tool_calls" and first["id"] == last["id"]
    text = TGI.answers("desk", {})({"id": "", "choices": [{"text": "a", "finish_reason": ""}]})
    assert text["choices"][0]["finish_reason"] is None
    assert (
        TGI.answers("desk", {})({"choices": [{"finish_reason": "length"}]})["choices"][0]["finish_reason"] == "length"
    )


@given(st.text("ab!", max_size=12), st.sampled_from(["!", "b!", ["ab", "!!"], ["aab", "b"]]), st.data())
def test_the_stop_sequence_that_tgi_leaves_at_the_end_is_taken_off_however_it_is_cut(
    text: str, stop: str | list[str], data: st.DataObject
) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    ends = next((i for i in range(1, len(text) + 1) if text[:i].endswith(tuple(stops))), None)
    said = text[:ends] if ends else text  # as TGI ends it
    reason = "stop_sequence" if ends else "length"
    shown = said
    if ends:
        shown = next(said.removesuffix(s) for s in sorted(stops, key=len, reverse=True) if said.endswith(s))
    whole = TGI.answers("desk", {"stop": stop})({"choices": [{"message": {"content": said}, "finish_reason": reason}]})
    assert whole["choices"][0]["message"]["content"] == shown
    assert whole["choices"][0]["finish_reason"] == ("stop" if ends else "length")
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(said) - 1)), max_size=6)))
    pieces = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    stream, out = TGI.answers("desk", {"stop": stop}), ""
    for i, piece in enumerate(pieces):
        last = reason if i == len(pieces) - 1 else None
        out += stream({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": last}]})["choices"][0][
            "delta"
        ]["content"]
    assert out == shown


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "rate_limit_error", "overloaded"),
        ({"error": "bad", "error_type": "validation"}, "invalid_request_error", "validation"),
        ({"error": "bad", "error_type": "incomplete_generation"}, "server_error", "incomplete_generation"),
        ({"error": {"message": "bad", "http_status_code": 422}}, "invalid_request_error", None),
    ],
)
def test_errors_become_openais(error: dict[str, Any], kind: str, code: str | None) -> None:
    made = TGI.answers("desk", {})(error)["error"]
    assert (made["type"], made["code"]) == (kind, code) and made["message"]


def test_gauges() -> None:
    text = (
        "# TYPE tgi_queue_size gauge\ntgi_queue_size 4\n\ntgi_batch_current_size 2\ntgi_batch_current_max_tokens 99\n"
    )
    gauges = TGI.gauges(text)
    assert (gauges.running, gauges.waiting, gauges.kv_used) == (2.0, 4.0, None)


def _line(level: str, message: str, *, nested: bool = True) -> str:
    said = {"message": message}
    return json.dumps({"timestamp": "t", "level": level, **({"fields": said} if nested else said), "target": "x"})


def test_the_reason_is_the_exception_of_the_shard_not_that_it_failed() -> None:
    trace = (
        "Shard complete standard error output:\n\nTraceback (most recent call last):\n  x\nRuntimeError: no GPU here\n"
    )
    log = "\n".join(
        [
            _line("ERROR", "an error of an earlier start"),
            "pilothouse: starting text-generation-launcher",
            _line("WARN", "something"),
            _line("ERROR", "Shard process was signaled to shutdown with signal 9"),
            _line("ERROR", trace),
            _line("ERROR", "Shard 0 failed to start"),
            "Error: ShardCannotStart",
        ]
    )
    assert TGI.reason(log) == "RuntimeError: no GPU here"
    assert TGI.reason(_line("ERROR", "Failed to bind to 127.0.0.1:80: denied", nested=False)).startswith(
        "Failed to bind"
    )
    started = "pilothouse: starting x\n"
    assert TGI.reason(f'{started}Error: ArgumentValidation("`max_input_tokens` must be <")').startswith("ArgumentVal")
    assert TGI.reason(f"{started}all is well") == ""


FAKE = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
def stop(*_):
    child.terminate(); child.wait(); sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print(child.pid, flush=True)
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_launcher_ends_its_children_however_its_parent_ends(
    spec: EngineSpec, launcher: Callable[[str], Path], how: signal.Signals
) -> None:
    launcher(FAKE)
    process = subprocess.Popen(TGI.launch(spec, 1).argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    shard = int(process.stdout.readline())
    process.send_signal(how)
    assert process.wait(10) == (3 if how == signal.SIGTERM else -signal.SIGKILL)
    until = time.monotonic() + 5
    while _lives(shard) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _lives(shard)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
