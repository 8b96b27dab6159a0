"""How does a foundation model get into the store? Its reference is fetched, checked and kept, or found there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilothouse.core import digest, registry
from pilothouse.core.errors import UserError
from pilothouse.core.progress import Progress, Silent
from pilothouse.core.records import Asset
from pilothouse.store.files import disk_full
from pilothouse.store.sources._base import Fetched, Source
from pilothouse.store.store import Store

MODEL_FILE = "model.gguf"


def pull(
    store: Store,
    reference: str,
    *,
    name: str,
    sha256: str | None = None,
    licence: str = "",
    folder: Path,
    progress: Progress,
) -> Asset:
    """The model that `reference` names, as an asset. Without network when the store has it (same origin and sha256).

    A single file must be a GGUF and is kept as `model.gguf`; several are a Hugging Face folder. sha256 is that of the
    single file and is checked before anything enters the store. meta: {"format": "gguf" | "hf", "file": …}.
    """
    source, rest = _source(reference)
    origin = source.pinned(rest)
    if origin is not None and (kept := _kept(store, origin, sha256)) is not None:
        return kept
    with _workplace(store.files.tmp) as into:
        fetched = _fetch(source, rest, folder=folder, into=into, progress=progress)
        gguf = _gguf(fetched, reference)
        if gguf is None and sha256 is not None:
            raise UserError("sha256 is for a single file, and this is a folder", where=reference, fix="Remove sha256.")
        if gguf is not None:
            _check(gguf, sha256, reference)
        files: dict[str, Path | bytes] = dict(fetched.files) if gguf is None else {MODEL_FILE: gguf}
        meta = {"format": "hf", "file": "config.json"} if gguf is None else {"format": "gguf", "file": MODEL_FILE}
        return store.add_asset(
            "model",
            name,
            files,
            meta=meta,
            licence=licence or fetched.licence,
            origin=fetched.origin,
            move=fetched.temporary,
        )


def fetch_file(reference: str, *, folder: Path, into: Path, progress: Progress | None = None) -> Path:
    """Bring the single file that `reference` names under `into`; returns its path. For data inside wheels and tests."""
    source, rest = _source(reference)
    into.mkdir(parents=True, exist_ok=True)
    with _workplace(into) as temporary:
        fetched = _fetch(source, rest, folder=folder, into=temporary, progress=progress or Silent())
        if len(fetched.files) != 1:
            raise UserError(
                f"this names {len(fetched.files)} files, not one", where=reference, fix="Name a file after '#'."
            )
        ((file, path),) = fetched.files.items()
        target = into / Path(file).name
        if fetched.temporary:
            path.replace(target)
        elif path != target.resolve():
            shutil.copyfile(path, target)
    return target


def _source(reference: str) -> tuple[Source, str]:
    scheme, colon, rest = reference.partition(":")
    if not colon or not rest:
        known = ", ".join(f"{n}:" for n in registry.modules("sources"))
        raise UserError(f"{reference!r} is no reference", fix=f"References start with one of: {known}")
    source: Source = registry.create("sources", scheme, where=reference)
    return source, rest


def _fetch(source: Source, rest: str, *, folder: Path, into: Path, progress: Progress) -> Fetched:
    try:
        return source.fetch(rest, folder=folder, into=into, progress=progress)
    except OSError as e:
        raise (disk_full(e) or e) from None


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """A folder that vanishes at the end, interrupted or not (after kill -9 `pilothouse doctor` removes it)."""
    parent.mkdir(parents=True, exist_ok=True)
    into = Path(tempfile.mkdtemp(prefix="pull-", dir=parent))
    try:
        yield into
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _kept(store: Store, origin: str, sha256: str | None) -> Asset | None:
    """A model of that origin whose files are all there and, for a single file, of that sha256."""
    for asset in store.assets("model"):
        if asset.origin != origin or not all(store.files.path(f.sha256).exists() for f in asset.files):
            continue
        if sha256 is None or [f.sha256 for f in asset.files] == [sha256]:
            return asset
    return None


def _gguf(fetched: Fetched, reference: str) -> Path | None:
    """The single GGUF, or None for a Hugging Face folder; anything else is no model."""
    if len(fetched.files) == 1:
        ((name, path),) = fetched.files.items()
        with path.open("rb") as f:
            if f.read(4) == b"GGUF":
                return path
        raise UserError(f"{name} is not a GGUF file", where=reference, fix="Name a .gguf file, or a whole folder.")
    if "config.json" not in fetched.files or not any(n.endswith(".safetensors") for n in fetched.files):
        fix = "Name a .gguf file in it after '#'." if any(n.endswith(".gguf") for n in fetched.files) else ""
        raise UserError("no Hugging Face model (config.json and *.safetensors) lies there", where=reference, fix=fix)
    return None


def _check(path: Path, sha256: str | None, reference: str) -> None:
    if sha256 is not None and (found := digest.of_file(path)) != sha256:
        fix = "The file is not the one that the project pinned: do not use it, or correct sha256."
        raise UserError(f"sha256 is {found[:12]}…, expected {sha256[:12]}…", where=reference, fix=fix)
