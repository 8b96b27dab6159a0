"""The pages about serving say what is so: their settings load, and what they list is what the code has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pilothouse.core import registry
from pilothouse.core.project import load_project
from pilothouse.serve.base import CAPABILITIES
from pilothouse.serve.engines._options import read_options
from pilothouse.serve.gateway import shared
from pilothouse.serve.gateway.layout import HISTOGRAMS
from pilothouse.serve.gateway.metrics import Metrics
from pilothouse.serve.gateway.routing.fleet import Fleet, Member, Served
from tests.docs.blocks import sections
from tests.docs.script import script

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "docs" / "serving.md", REPO / "docs" / "gateway.md"]
ENGINES, GATEWAY = (page.read_text() for page in PAGES)


@pytest.mark.parametrize("text", [text for page in PAGES for s in sections(page) for text in s.of("yaml")])
def test_settings_that_a_page_shows_load_and_their_options_are_the_engines(text: str, tmp_path: Path) -> None:
    project = shutil.copytree(REPO / "examples" / "airline", tmp_path / "airline")
    merge(project / "pilothouse.yaml", text)
    serve = load_project(project).serve
    for engine, options in [(serve.engine, serve.options), *((b.engine, b.options) for b in serve.backends)]:
        read_options(engine, options, registry.module("engines", engine).OPTIONS)


def merge(file: Path, text: str) -> None:
    """Settings of a page into a project's file, section by section."""
    yaml = YAML()
    settings = yaml.load(file)
    for name, values in YAML(typ="safe").load(text).items():
        settings[name].update(values)
    yaml.dump(settings, file)


def test_every_engine_and_what_it_can_do_has_its_place_in_the_tables() -> None:
    for name in registry.modules("engines"):
        assert f"| `{name}` |" in ENGINES, name
    table = re.search(r"^\| can \|(.+)\|$\n.+\n((?:\|.+\n)+)", ENGINES, re.M)
    assert table is not None
    names = [n.strip() for n in table[1].split("|")]
    assert sorted(names) == sorted(registry.modules("engines"))
    for row in table[2].splitlines():
        word, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        capability = word.replace(" ", "_")
        assert capability in CAPABILITIES
        for name, cell in zip(names, cells, strict=True):
            able = capability in registry.create("engines", name).capabilities
            assert able == (cell != "–"), f"{name} {word}: {cell}"


def test_every_metric_family_is_named_with_its_meaning() -> None:
    served = {"m": Served(fields={}, system_prompt="", release="")}
    member = Member(name="e", url="http://127.0.0.1:1", models=served)
    memory = shared.Shared()
    text = Metrics(memory, Fleet(memory, (member,))).text().decode()
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
    assert len(families) > len(HISTOGRAMS)
    table = ENGINES.partition("| family | says |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \| \S", table, re.M)) == {f.removesuffix("_total") for f in families}


def test_every_error_code_of_the_gateway_is_explained() -> None:
    code = "\n".join(p.read_text() for p in (REPO / "src/pilothouse/serve/gateway").glob("**/*.py"))
    codes = set(re.findall(r'ApiError\(\s*4\d\d,\s*"(\w+)"', code)) | {"engine_failed", "engine_timeout"}
    # These need no table: a wrong path or method, a feedback for nothing, the blocked embedding (told in words).
    codes -= {"not_found", "method_not_allowed", "exchange_not_found", "content_filter", "tool_not_found"}
    assert not [c for c in codes if f"`{c}`" not in GATEWAY]


def test_every_limit_of_a_key_is_in_the_table() -> None:
    from pilothouse.ui.cli.commands.keys import _LIMITS

    for option, _, _, _ in _LIMITS:
        assert f"| `{option}" in GATEWAY, option


def test_a_section_becomes_the_script_that_its_reader_would_type() -> None:
    section = next(s for s in sections(REPO / "docs/gateway.md") if s.title == "Keys")
    text = script(section, "pilothouse serve --unshipped", 9999)
    assert "pilothouse serve --unshipped examples/airline &\nSERVE=$!" in text
    assert "8080" not in text and "refused http://127.0.0.1:9999/v1/models" in text
    assert text.index("keys add app") < text.index("pilothouse serve") < text.index("keys revoke app")
