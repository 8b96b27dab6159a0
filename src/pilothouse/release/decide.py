"""Gates over all reports, the verdict, and the release recorded with every digest."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pilothouse.core.digest import of_json
from pilothouse.core.project import Project
from pilothouse.core.records import Asset
from pilothouse.release import gates, record
from pilothouse.release.serving import Served
from pilothouse.store.runs import Run, machine
from pilothouse.store.store import Store


def decide(
    store: Store, project: Project, served: Served, runs: Mapping[str, Run], made_of: Mapping[str, Asset]
) -> record.Release:
    """The release that these runs support. The same evidence and gates give the same release id.

    made_of: the assets behind what is served (model, dataset, …), named in the release beside the served ones.
    """
    reports = [run.report for run in runs.values() if run.report is not None]
    results = tuple(gates.judge(gate, reports) for gate in project.gates)
    digests = {role: asset.digest for role, asset in {**served.assets, **made_of}.items()}
    run_ids = {stage: run.id for stage, run in runs.items()}
    # Run ids name settings and inputs, not outcomes: a run made again has the same id and a later end.
    evidence = {stage: [run.id, run.ended] for stage, run in runs.items()}
    identity = of_json([project.project, digests, served.engine, evidence, results])
    release = record.Release(
        id=f"{project.project}-{identity[:10]}",
        project=project.project,
        title=project.title or project.project,
        created=time.time(),
        verdict=gates.verdict(results),
        gates=results,
        digests=digests,
        runs=run_ids,
        machine=machine(),
        serving=served.engine,
    )
    return record.keep(store, release)
