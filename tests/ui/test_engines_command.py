"""`pilothouse engines`: who can run here, or why not, readable at 80 columns; an engine's options; all as JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.ui.cli.commands.engines import command


def shown(*args: str) -> str:
    done = CliRunner().invoke(command, list(args), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_engine_with_what_it_can_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = shown()
    assert max(map(len, text.splitlines())) <= 80
    for name in registry.modules("engines"):
        assert f"\n{name}  " in f"\n{text}"
    tgi = text[text.index("tgi  does not run here") :]
    assert "why not  text-generation-launcher is not on PATH" in tgi and "install  run its container" in tgi


@pytest.mark.parametrize("name", list(registry.modules("engines")))
def test_one_engine_with_its_options(name: str) -> None:
    text = shown(name)
    assert max(map(len, text.splitlines())) <= 80
    for option in registry.module("engines", name).OPTIONS:
        assert f"\n  {option.name}  {option.type_name}, default " in text


def test_json_is_complete() -> None:
    every = {engine["engine"]: engine for engine in json.loads(shown("--json"))}
    assert set(every) == set(registry.modules("engines"))
    assert all(e["can"] and e["install"] and e["reads"] and "reason" in e and "version" in e for e in every.values())
    one = json.loads(shown("llamacpp", "--json"))
    assert one == every["llamacpp"]
    kv = next(option for option in one["options"] if option["name"] == "kv_type")
    assert (kv["type"], kv["default"]) == ("text", "f16") and "q8_0" in kv["choices"] and kv["meaning"]


def test_an_unknown_engine_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"no engine is called 'tgl'\. Did you mean 'tgi'"):
        shown("tgl")
