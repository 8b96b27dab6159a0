"""Gates over all reports, the verdict, and the release recorded with every digest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pilothouse.core.digest import of_json
from pilothouse.release import gates, record
from pilothouse.store.runs import machine

if TYPE_CHECKING:
    from pilothouse.release.turn import Turn


def decide(turn: Turn) -> record.Release:
    """The release that this turn's evidence supports. The same evidence and gates give the same release id."""
    project, served = turn.project, turn.served()
    gates.check_names(project.gates, where="pilothouse.yaml: gates")
    reports = [run.report for run in turn.runs.values() if run.report is not None]
    results = tuple(gates.judge(gate, reports) for gate in project.gates)
    digests = {role: asset.digest for role, asset in served.assets.items()}
    digests |= {
        "model": turn.output("pull", "model").digest,
        "dataset": turn.output("data", "dataset").digest,
        "weights": turn.output("unpack", "weights").digest,
        "trained": turn.output("tune", "adapter").digest,
    }
    runs = {stage: run.id for stage, run in turn.runs.items()}
    identity = of_json([project.project, digests, served.engine, runs, results])
    release = record.Release(
        id=f"{project.project}-{identity[:10]}",
        project=project.project,
        title=project.title or project.project,
        created=time.time(),
        verdict=gates.verdict(results),
        gates=results,
        digests=digests,
        runs=runs,
        machine=machine(),
        serving=served.engine,
    )
    return record.keep(turn.store, release)
