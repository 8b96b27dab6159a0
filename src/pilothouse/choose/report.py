"""Candidates, judged, as a report: one table, measures by candidate, and what each number rests on."""

from __future__ import annotations

import msgspec

from pilothouse.choose.base import Choice
from pilothouse.choose.fit import KV_BYTES, SERVED, USABLE
from pilothouse.core.project.schema import Use
from pilothouse.core.records import Measure, Report, Table

_COLUMNS = [
    "model",
    "params",
    "weights MB",
    "KV MB",
    "total MB",
    "fits",
    "TPOT ≥ ms",
    "full ≥ ms",
    "licence ok",
    "lang ok",
    "verdict",
]


def arm(name: str) -> str:
    """A candidate's name as the last part of a measure's name (dots separate parts there)."""
    return name.replace(".", "_")


def verdict(choice: Choice) -> str:
    """In words: may it be taken, and what to know."""
    mark = "picked" if choice.picked else "would do"
    if choice.blocking:
        mark = "no"
    elif choice.fits == "not known":
        mark += ", not assessed"
    because = "; ".join((*choice.blocking, *choice.remarks))
    return f"{mark}: {because}" if because else mark


def report(choices: list[Choice], use: Use, bandwidth: Measure, memory: int) -> Report:
    """The report of the stage."""
    chosen = next(c for c in choices if c.picked)
    needs = chosen.fit.needed if chosen.fit else None
    room = f"needs {needs / 1e6:,.0f} MB of {memory * USABLE / 1e6:,.0f} usable" if needs else "its memory is not known"
    others = [c.name for c in choices if not c.picked and not c.blocking]
    also = f" {len(others)} of {len(choices) - 1} other candidates would do as well." if len(choices) > 1 else ""
    return Report(
        stage="choose",
        title="Which foundation model",
        summary=f"{chosen.name} is picked: it {room}, licence {chosen.licence or 'not stated'}.{also}",
        measures=(*(m for c in choices for m in _measures(c)), bandwidth),
        tables=(Table("Candidates", _COLUMNS, [_row(c) for c in choices], note=_note(use)),),
        facts={
            "task": use.task,
            "languages": ", ".join(use.languages),
            "licence wanted": use.licence,
            "load": f"{use.streams} streams × {use.context:,} tokens",
            "memory": f"{memory / 1e9:.1f} GB " + ("as declared" if use.device_memory_gb else "in this machine"),
            "bandwidth": f"{bandwidth.value or 0:.1f} GB/s, measured by copying",
            **{f"licence of {c.name}": c.licence or "not stated" for c in choices},
            **{f"facts of {c.name}": c.facts.source if c.facts else "none" for c in choices},
        },
        details={"candidates": [msgspec.to_builtins(c) for c in choices]},
    )


def _row(c: Choice) -> list[object]:
    weights = _mb(c.fit.weights if c.fit else None)
    kv, needs = (_mb(c.fit.kv_cache), _mb(c.fit.needed)) if c.fit else (None, None)
    return [
        c.name,
        _count(c.facts.parameters) if c.facts and c.facts.parameters else None,
        weights,
        kv,
        needs,
        c.fits,
        round(c.speed.alone_ms, 2) if c.speed else None,
        round(c.speed.full_ms, 2) if c.speed else None,
        c.licence_ok,
        c.languages_ok,
        verdict(c),
    ]


def _measures(c: Choice) -> list[Measure]:
    why = "" if c.facts is None else c.facts.gap
    missing = why or "no facts: neither a local file, nor the hub, nor the catalogue has it"
    needs = _mb(c.fit.needed if c.fit else None)
    computed = f"computed: {SERVED} weights + KV cache + working memory"
    speed = c.speed
    return [
        Measure(
            f"choose.memory.{arm(c.name)}",
            needs,
            "MB",
            method=computed if needs is not None else missing,
            better="lower",
            label=f"memory to serve {c.name}",
        ),
        Measure(
            f"choose.tpot_bound.{arm(c.name)}",
            speed.alone_ms if speed else None,
            "ms",
            method="computed lower bound: bytes of weights / best memory bandwidth" if speed else missing,
            better="lower",
            label=f"least time per output token of {c.name}",
        ),
    ]


def _note(use: Use) -> str:
    return (
        f"Weights at {SERVED}, as served; KV cache = 2·K·d·{KV_BYTES} bytes a token and layer × {use.context:,} tokens "
        f"× {use.streams} streams (sliding-window layers keep their window only). It fits when weights, cache and "
        f"working memory stay within {USABLE:.0%} of the memory. TPOT is a lower bound, bytes touched over "
        "memory bandwidth, for one short request; full: with every stream at full context. Real engines are slower."
    )


def _mb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 1)


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.0f} M"
