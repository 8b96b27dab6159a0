"""Which foundation model? Judges every candidate on memory, speed bound, licence and languages, and checks the pick."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from pilothouse.choose import facts as known
from pilothouse.choose.base import Answer, Choice, Facts
from pilothouse.choose.fit import fit, machine_memory
from pilothouse.choose.licence import allowed, classify
from pilothouse.choose.report import report
from pilothouse.choose.speed import bandwidth, bound
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Candidate, Use
from pilothouse.core.records import Outcome
from pilothouse.store.pull import fetch_file
from pilothouse.store.runs import Context
from pilothouse.store.store import Store


def run(
    ctx: Context,
    use: Use,
    candidates: tuple[Candidate, ...],
    *,
    picked: str,
    facts_from: Mapping[str, Path] | None = None,
) -> Outcome:
    """The judged candidates. facts_from: candidate name → a GGUF, config.json or model folder to read its facts from.

    Raises UserError when the picked one cannot be taken (too big, or its licence does not allow it or is not stated).
    """
    paths = facts_from or {}
    ctx.progress.begin("measuring memory bandwidth")
    measured = bandwidth()
    ctx.progress.end()
    memory = round(use.device_memory_gb * 1e9) if use.device_memory_gb else machine_memory()
    choices = []
    for candidate in candidates:
        facts = find_facts(candidate, ctx.store, paths.get(candidate.name), log=ctx.log.info)
        choice = judge(
            candidate, facts, use, memory=memory, bytes_per_second=(measured.value or 0) * 1e9, picked=picked
        )
        ctx.log.info("%s: fits %s, licence ok %s", choice.name, choice.fits, choice.licence_ok)
        choices.append(choice)
    chosen = next(c for c in choices if c.picked)
    if chosen.blocking:
        others = [c.name for c in choices if not c.blocking and c.fits == "yes"]
        fix = f"Of the candidates these would do: {', '.join(others)}." if others else _suggest(use, memory)
        raise UserError(f"{chosen.name!r} cannot be taken: {'; '.join(chosen.blocking)}", where="model", fix=fix)
    return Outcome(report(choices, use, measured, memory))


def find_facts(candidate: Candidate, store: Store, path: Path | None, *, log: Callable[..., None]) -> Facts | None:
    """The best facts at hand: the given or local file, the asset in the store, the catalogue, the hub's config.json."""
    local = path or _local(candidate, store)
    if local is not None:
        found = known.from_path(local)
        listed = known.from_catalogue(candidate.source) or known.from_catalogue(found.model)
        return msgspec.structs.replace(found, languages=listed.languages) if listed else found
    if (listed := known.from_catalogue(candidate.source)) is not None:
        return listed
    if candidate.source.startswith("hub:") and find_spec("huggingface_hub") is not None:
        try:
            with tempfile.TemporaryDirectory() as into:
                reference = f"{candidate.source.partition('#')[0]}#config.json"
                return known.from_path(fetch_file(reference, folder=Path.cwd(), into=Path(into)))
        except UserError as e:
            log("no facts of %s: %s", candidate.name, e.line())
    return None


def judge(
    candidate: Candidate, facts: Facts | None, use: Use, *, memory: int, bytes_per_second: float, picked: str
) -> Choice:
    """One candidate against the use: what blocks it, what to know."""
    size = fit(facts, context=use.context, streams=use.streams, memory=memory) if facts and facts.parameters else None
    speed = bound(facts, context=use.context, streams=use.streams, bytes_per_second=bytes_per_second) if facts else None
    fits: Answer = "not known" if size is None or size.needed is None else "yes" if size.needed <= size.usable else "no"
    licence = candidate.licence or (facts.licence if facts else "")
    licence_ok = allowed(licence, use.licence)
    languages_ok, unspoken = _languages(facts, use)
    blocking, remarks = [], []
    if fits == "no" and size is not None and size.needed is not None:
        blocking.append(f"it needs {size.needed / 1e9:.1f} GB and {size.usable / 1e9:.1f} GB are usable")
    if licence_ok == "no":
        blocking.append(f"its licence {licence!r} is {classify(licence)}, the project wants permissive")
    if licence_ok == "not known":
        said = f"its licence {licence!r} is not one we can class" if licence else "its licence is not stated"
        blocking.append(f"{said}, the project wants permissive")
    if facts is None:
        remarks.append("memory and speed not assessed: no facts at hand")
    elif facts.gap:
        remarks.append(f"memory not assessed: {facts.gap}")
    if facts and facts.context and use.context > facts.context:
        remarks.append(f"trained for {facts.context:,} tokens, the project wants {use.context:,}")
    if unspoken:
        remarks.append(f"its card does not state {', '.join(unspoken)}")
    if facts and candidate.licence and facts.licence and classify(candidate.licence) != classify(facts.licence):
        remarks.append(f"the project says licence {candidate.licence!r}, the model {facts.licence!r}")
    if speed and use.slo.tpot_ms:
        if speed.alone_ms > use.slo.tpot_ms:
            remarks.append(f"too slow here for TPOT {use.slo.tpot_ms:g} ms, whatever the engine")
        elif speed.full_ms > use.slo.tpot_ms:
            remarks.append(f"too slow for TPOT {use.slo.tpot_ms:g} ms with every stream full")
    return Choice(
        name=candidate.name,
        source=candidate.source,
        picked=candidate.name == picked,
        facts=facts,
        fit=size,
        speed=speed,
        fits=fits,
        licence=licence,
        licence_class=classify(licence),
        licence_ok=licence_ok,
        languages_ok=languages_ok,
        blocking=tuple(blocking),
        remarks=tuple(remarks),
    )


def _languages(facts: Facts | None, use: Use) -> tuple[Answer, list[str]]:
    if facts is None or not facts.languages:
        return "not known", []
    missing = [language for language in use.languages if language not in facts.languages]
    return ("no", missing) if missing else ("yes", [])


def _local(candidate: Candidate, store: Store) -> Path | None:
    """Where the candidate's file lies, if it is on this disk: an absolute `file:` path, or an asset pulled before."""
    if candidate.source.startswith("file:"):
        path = Path(candidate.source.removeprefix("file:")).expanduser()
        return path if path.is_absolute() and path.exists() else None
    for asset in store.assets("model"):
        if asset.origin == candidate.source and all(store.files.path(f.sha256).exists() for f in asset.files):
            return store.folder(asset) / str(asset.meta["file"])
    return None


def _suggest(use: Use, memory: int) -> str:
    """What of the catalogue would do, largest first."""
    fitting = []
    for _, facts in known.catalogue():
        size = fit(facts, context=use.context, streams=use.streams, memory=memory)
        if size.needed is not None and size.needed <= size.usable and allowed(facts.licence, use.licence) == "yes":
            fitting.append(facts)
    fitting.sort(key=lambda f: f.parameters, reverse=True)
    if not fitting:
        return "Lower use.context or use.streams, or give it a larger device."
    return f"Of the catalogue these would do: {', '.join(f.model for f in fitting[:4])}."
