"""Pulling models and files: checked before they enter the store, found there without network, clean when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.store.pull import fetch_file, pull
from pilothouse.store.store import Store

GGUF = b"GGUF" + bytes(range(256)) * 40
SHA = hashlib.sha256(GGUF).hexdigest()
PACKAGE = "pypi:tiny-model==1.0#tiny.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one wheel, in a folder: pip reads it without network."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", GGUF)
        wheel.writestr("tiny_model/other-tiny.gguf", b"GGUF other")
        wheel.writestr("tiny_model/rows.csv", "a,b\n1,2\n")
        wheel.writestr(
            "tiny_model-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nLicense-Expression: MIT\n"
            "Requires-Dist: a-package-that-does-not-exist\n",
        )
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def take(store: Store, reference: str, folder: Path, sha256: str | None = None) -> object:
    return pull(store, reference, name="tiny", sha256=sha256, folder=folder, progress=Silent())


def left_behind(store: Store) -> list[Path]:
    return list(store.files.tmp.iterdir()) if store.files.tmp.exists() else []


@pytest.mark.usefixtures("index")
def test_a_gguf_in_a_wheel_becomes_a_model_without_its_dependencies(store: Store, tmp_path: Path) -> None:
    asset = pull(store, PACKAGE, name="tiny", sha256=SHA, folder=tmp_path, progress=Silent())
    assert asset.kind == "model" and asset.licence == "MIT" and asset.origin == PACKAGE
    assert asset.meta == {"format": "gguf", "file": "model.gguf"}
    assert store.read(asset, "model.gguf") == GGUF
    assert left_behind(store) == []


@pytest.mark.usefixtures("index")
def test_a_pulled_model_is_found_again_without_the_index(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(store, PACKAGE, tmp_path, SHA)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("asked the index again"))
    assert take(store, PACKAGE, tmp_path, SHA) == first
    assert take(store, PACKAGE, tmp_path) == first


@pytest.mark.usefixtures("index")
def test_a_wrong_digest_keeps_everything_out_of_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 0000"):
        take(store, PACKAGE, tmp_path, "0" * 64)
    assert store.assets() == [] and list(store.files.every()) == [] and left_behind(store) == []


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("pypi:tiny-model==1.0#absent.gguf", "no file 'absent.gguf'"),
        ("pypi:tiny-model==1.0", "several files in the wheel match"),
        ("pypi:tiny-model==1.0#rows.csv", "not a GGUF"),
        ("pypi:tiny-model==2.0#tiny.gguf", "no such wheel"),
        ("pypi:tiny-model", "not a package reference"),
        ("file:absent", "no such file or folder"),
        ("hub:not a name", "not a hub reference"),
        ("huub:org/name", "Did you mean 'hub'"),
        ("nothing", "is no reference"),
    ],
)
@pytest.mark.usefixtures("index")
def test_each_mistake_is_one_line(reference: str, says: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        take(store, reference, tmp_path)
    line = caught.value.line()
    assert says in line and "\n" not in line
    assert store.assets() == [] and left_behind(store) == []


def test_an_unreachable_index_is_said_in_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="the package index cannot be reached"):
        take(store, PACKAGE, tmp_path)


@pytest.mark.usefixtures("index")
def test_an_interrupted_download_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def starting(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        return started[-1]

    class Interrupting(Silent):
        def advance(self, n: int = 1, **figures: float | str) -> None:
            raise KeyboardInterrupt  # pip is at work: advance is only called while it runs

    monkeypatch.setattr("subprocess.Popen", starting)
    with pytest.raises(KeyboardInterrupt):
        pull(store, PACKAGE, name="tiny", folder=tmp_path, progress=Interrupting())
    assert started[0].poll() is not None
    assert left_behind(store) == [] and store.assets() == []


@pytest.mark.usefixtures("index")
def test_a_data_file_in_a_wheel_is_fetched_by_its_name(tmp_path: Path) -> None:
    path = fetch_file("pypi:tiny-model==1.0#tiny_model/rows.csv", folder=tmp_path, into=tmp_path / "data")
    assert path == tmp_path / "data" / "rows.csv" and path.read_text() == "a,b\n1,2\n"
    assert [p.name for p in path.parent.iterdir()] == ["rows.csv"]


def test_a_local_file_is_copied_and_stays_where_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(GGUF)
    asset = pull(store, "file:mine.gguf", name="tiny", sha256=SHA, licence="MIT", folder=tmp_path, progress=Silent())
    assert store.read(asset, "model.gguf") == GGUF and (tmp_path / "mine.gguf").read_bytes() == GGUF
    assert fetch_file("file:mine.gguf", folder=tmp_path, into=tmp_path / "out").read_bytes() == GGUF


def test_a_hugging_face_folder_is_kept_file_by_file(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    (folder / ".git").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", ".git/HEAD"):
        (folder / name).write_text(name)
    asset = pull(store, "file:hf", name="tiny", folder=tmp_path, progress=Silent())
    assert [f.path for f in asset.files] == ["config.json", "model.safetensors"]
    assert asset.meta == {"format": "hf", "file": "config.json"}
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(UserError, match="no Hugging Face model"):
        pull(store, "file:hf", name="tiny", folder=tmp_path, progress=Silent())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as one repository with one file needs."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository, file = "/api/models/org/tiny/revision/main", f"/org/tiny/resolve/{COMMIT}/tiny.gguf"
        if self.path.startswith(repository):
            self.answer(json.dumps({"id": "org/tiny", "sha": COMMIT, "cardData": {"license": "mit"}}).encode())
        elif self.path.startswith(file):
            self.answer(GGUF, {"ETag": f'"{SHA}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PULL = """
import sys
from pathlib import Path
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Silent
from pilothouse.store.pull import pull
from pilothouse.store.store import Store
try:
    a = pull(Store.open(Path(sys.argv[1])), sys.argv[2], name="tiny", folder=Path("."), progress=Silent())
    print(a.origin, a.licence, a.files[0].sha256)
except UserError as e:
    print(e.line())
"""


def from_hub(endpoint: str, home: Path, reference: str) -> str:
    """In a process of its own: the hub client reads its endpoint once, when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
    argv = [sys.executable, "-c", PULL, str(home), reference]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_a_hub_model_is_pinned_to_its_commit(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    said = from_hub(hub, tmp_path, "hub:org/tiny@main#tiny.gguf")
    assert said == f"hub:org/tiny@{COMMIT}#tiny.gguf mit {SHA}"
    # Pinned by its commit, it needs no network any more: nobody listens on port 9.
    again = from_hub("http://127.0.0.1:9", tmp_path, f"hub:org/tiny@{COMMIT}#tiny.gguf")
    assert again == said


def test_a_hub_out_of_reach_or_without_the_model_is_said_in_one_line(hub: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    assert "the hub cannot be reached" in from_hub("http://127.0.0.1:9", tmp_path, "hub:org/tiny@main#tiny.gguf")
    assert "the hub has no such repository" in from_hub(hub, tmp_path, "hub:org/absent@main#tiny.gguf")
