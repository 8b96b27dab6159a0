"""What is known of OpenVINO GenAI, where it is not: found or not, launched, read. The real one: tests/engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.serve.base import CAPABILITIES, EngineSpec
from pilothouse.serve.engines import openvino


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that looks like OpenVINO's."""
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for folder in ("msgspec", "httptools", "openvino_genai-2026.4.1.0.dist-info"):
        (site / folder).mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setenv("PILOTHOUSE_OPENVINO_PYTHON", str(python))
    monkeypatch.setattr(openvino, "check_memory", lambda _: None)  # the model below is none
    (tmp_path / "m.gguf").touch()
    return site


def spec(tmp_path: Path, **more: Any) -> EngineSpec:
    return EngineSpec(**({"model": tmp_path / "m.gguf", "alias": "desk", "context": 512, "streams": 3} | more))


def test_it_is_found_launched_and_gets_a_secret_key(site: Path, tmp_path: Path) -> None:
    engine = registry.create("engines", "openvino")
    assert engine.capabilities <= set(CAPABILITIES) and engine.check().version == "2026.4.1.0"
    launch = engine.launch(spec(tmp_path, options={"threads": 2, "kv_type": "f16"}), 4711)
    settings = msgspec.json.decode(launch.argv[3])
    assert launch.argv[0].endswith("/env/bin/python") and launch.argv[1] == "-P"
    assert (settings["port"], settings["context"], settings["streams"], settings["threads"]) == (4711, 512, 3, 2)
    assert (settings["kv_type"], settings["prefix_cache"], settings["device"]) == ("f16", True, "CPU")
    assert launch.env["PILOTHOUSE_ENGINE_KEY"] == launch.api_key and launch.api_key not in " ".join(launch.argv)
    (site / "httptools").rmdir()
    assert not engine.check().runs and "httptools is missing" in engine.check().reason


def test_where_it_is_not_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOTHOUSE_OPENVINO_PYTHON", raising=False)
    monkeypatch.setenv("PILOTHOUSE_HOME", str(tmp_path))
    check = openvino.create().check()
    assert not check.runs and "not installed" in check.reason and "openvino-genai==" in check.install
    with pytest.raises(UserError, match="not installed here"):
        openvino.create().launch(spec(tmp_path), 1)


@pytest.mark.usefixtures("site")
def test_what_it_cannot_do_is_said_at_the_start(tmp_path: Path) -> None:
    engine = openvino.create()
    for more, says in (
        ({"adapters": (("a", tmp_path / "m.gguf"),)}, r"openvino cannot load adapters \(a\)"),
        ({"needs": frozenset({"logprobs", "structured_output"})}, "logprobs, structured output"),
        ({"options": {"kv_type": "q4"}}, "q4"),
        ({"model": tmp_path / "gone"}, "no such file"),
    ):
        with pytest.raises(UserError, match=says):
            engine.launch(spec(tmp_path, **more), 1)
    with pytest.raises(UserError, match="cannot choose adapter 'a'"):
        engine.fields("a", spec(tmp_path))
    assert engine.fields(None, spec(tmp_path)) == {}
    assert engine.can(spec(tmp_path)) == engine.capabilities
    assert engine.can(spec(tmp_path, options={"prefix_cache": False})) == {"streaming"}


def test_gauges_and_reason_come_from_our_own_page_and_log() -> None:
    text = "# TYPE x gauge\nopenvino_requests_running 2\nopenvino_requests_waiting 5\nopenvino_cache_usage_ratio 0.25\n"
    gauges = openvino.create().gauges(text)
    assert (gauges.running, gauges.waiting, gauges.kv_used) == (2.0, 5.0, 0.25)
    log = "pilothouse: old\npilothouse: starting OpenVINO\n[ERROR] noise\npilothouse: RuntimeError: no  model\n"
    assert openvino.create().reason(log) == "RuntimeError: no model"
    assert openvino.create().reason("pilothouse: starting OpenVINO\n") == ""
