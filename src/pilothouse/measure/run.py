"""The measure stage: an open-loop load on an endpoint, and what it shows.

A load cannot be resumed in the middle (its figures depend on what ran just before), so an interrupted one starts anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Load, Slo
from pilothouse.core.records import Endpoint, Outcome
from pilothouse.measure import log
from pilothouse.measure.base import Arrivals, Window
from pilothouse.measure.calibrate import calibrate
from pilothouse.measure.load import offer, plan
from pilothouse.measure.report import report
from pilothouse.store.runs import Context


def run(
    ctx: Context, settings: Load, slo: Slo, prompts: Sequence[Sequence[Mapping[str, Any]]], endpoint: Endpoint
) -> Outcome:
    """Calibrate the client, offer the load, read the log back, report. The raw event log is the asset `events`."""
    if settings.warmup_s >= settings.seconds:
        raise UserError(
            f"the warm-up of {settings.warmup_s:g} s leaves nothing of a load of {settings.seconds:g} s",
            where="load.warmup_s",
            fix="Make seconds longer or warmup_s shorter.",
        )
    if not prompts:
        raise UserError("there is no prompt to send", where="load", fix="Give the dataset rows in its dev split.")
    window = Window(settings.warmup_s, settings.seconds)
    offsets = arrivals(settings).times(settings.rate, settings.seconds, settings.seed)
    if not any(window.holds(t) for t in offsets):
        raise UserError(
            f"no request falls between {window.start:g} s and {window.end:g} s at {settings.rate:g} a second",
            where="load",
            fix="Make seconds longer or the rate higher.",
        )
    ctx.progress.begin("calibrating the load client")
    calibration = calibrate(ctx.folder)
    ctx.progress.end()
    path = ctx.folder / "events.jsonl"
    work = plan(
        endpoint,
        prompts,
        offsets,
        max_tokens=settings.max_tokens,
        timeout_s=settings.timeout_s,
        seed=settings.seed,
        log=path,
    )
    ctx.log.info("%s: %d requests in %g s", endpoint, len(offsets), settings.seconds)
    ctx.progress.begin(f"load: {settings.rate:g} requests a second for {settings.seconds:g} s", len(offsets))
    failed = 0

    def on_done(status: int) -> None:
        nonlocal failed
        failed += status != 200
        ctx.progress.advance(1, failed=failed)

    offer(work, on_done=on_done)
    ctx.progress.end()
    events = log.read(path)
    found = report(settings, slo, log.results(events), window, calibration, events.tail.loop_lag_ms, len(work.requests))
    ctx.log.info("%s", found.summary)
    kept = ctx.store.add_asset("rows", f"{ctx.id}-events", {"events.jsonl": path}, origin=f"run {ctx.id}")
    return Outcome(found, {"events": kept})


def arrivals(settings: Load) -> Arrivals:
    """The arrival process that the settings name; an option it does not take is a UserError."""
    create = registry.module("arrivals", settings.arrivals, where="load.arrivals").create
    known = list(inspect.signature(create).parameters)
    if wrong := next((k for k in settings.options if k not in known), None):
        takes = f"It takes: {', '.join(known)}." if known else "It takes none."
        raise UserError(f"{settings.arrivals!r} has no option {wrong!r}", where="load.options", fix=takes)
    made: Arrivals = create(**settings.options)
    return made
