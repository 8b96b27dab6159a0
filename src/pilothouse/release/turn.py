"""One turn of the loop over a project: which stage needs which, each run once and found again by its key.

This is the composing layer: stages meet only here and in the store. An engine is started the first time a stage needs
an endpoint and not at all when every run is already there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.messages import with_system
from pilothouse.core.progress import Progress
from pilothouse.core.project import Project
from pilothouse.core.records import Asset, Endpoint, Outcome
from pilothouse.release.gates import check_names
from pilothouse.release.serving import Served, Serving
from pilothouse.store import rows, runs
from pilothouse.store.store import Store

if TYPE_CHECKING:
    from pilothouse.release.record import Release

Stage = Literal[
    "choose",
    "pull",
    "data",
    "unpack",
    "tune",
    "export",
    "evaluate",
    "parity",
    "guard",
    "redteam",
    "measure",
]
STAGES: tuple[Stage, ...] = Stage.__args__  # type: ignore[attr-defined]


class Turn:
    """The stages of one project, run on demand. Use as a context manager: engines stop at its end.

    fresh: stages to run anew although a finished run is there.
    """

    def __init__(
        self, project: Project, store: Store, progress: Progress, *, fresh: frozenset[str] = frozenset()
    ) -> None:
        self.project, self.store, self.progress, self.fresh = project, store, progress, fresh
        self.runs: dict[str, runs.Run] = {}
        self._serving: Serving | None = None

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        if self._serving is not None:
            self._serving.stop()

    def run(self, stage: Stage) -> runs.Run:
        """The finished run of a stage (its needs first)."""
        if stage not in self.runs:
            step: Callable[[], runs.Run] = getattr(self, f"_{stage}")
            self.runs[stage] = step()
        return self.runs[stage]

    def output(self, stage: Stage, role: str) -> Asset:
        """The asset that a stage made in that role."""
        return runs.output(self.store, self.run(stage), role)

    def release(self) -> Release:
        """All stages, their gates, and the release that they make up, recorded with its card."""
        from pilothouse.release.decide import decide

        check_names(self.project.gates, where="pilothouse.yaml: gates")
        for stage in STAGES:
            self.run(stage)
        made_of = {
            "model": self.output("pull", "model"),
            "dataset": self.output("data", "dataset"),
            "weights": self.output("unpack", "weights"),
            "trained": self.output("tune", "adapter"),
        }
        return decide(self.store, self.project, self.served, self.runs, made_of)

    # assets that come straight from the project file

    @cached_property
    def prompt(self) -> Asset:
        """The system prompt as an asset."""
        text = self.project.system_prompt.encode()
        return self.store.add_asset("prompt", self.project.project, {"system.txt": text}, origin="pilothouse.yaml")

    @cached_property
    def policy(self) -> Asset:
        """The guard's policy, with the handbook's text, as an asset."""
        guard, files = self.project.guard, dict[str, Path | bytes]()
        if guard.handbook:
            files["handbook.md"] = _existing(self.project.folder / guard.handbook, "guard.handbook")
            guard = guard.model_copy(update={"handbook": "handbook.md"})
        rules = []
        for i, rule in enumerate(guard.rules):  # the files that options name travel with the policy
            options = dict(rule.options)
            for key, value in rule.options.items():
                if isinstance(value, str) and value.startswith("file:"):
                    path = _existing(
                        self.project.folder / value.removeprefix("file:"), f"guard.rules.{i}.options.{key}"
                    )
                    files[f"rule-{i}-{key}-{path.name}"] = path
                    options[key] = f"file:rule-{i}-{key}-{path.name}"
            rules.append(rule.model_copy(update={"options": options}))
        files["policy.json"] = guard.model_copy(update={"rules": tuple(rules)}).model_dump_json(indent=1).encode()
        return self.store.add_asset("policy", self.project.project, files, origin="pilothouse.yaml")

    # stages

    def _execute(
        self,
        stage: Stage,
        settings: Any,
        inputs: Mapping[str, Asset],
        function: Callable[[runs.Context], Outcome],
    ) -> runs.Run:
        plain = settings.model_dump(mode="json") if hasattr(settings, "model_dump") else settings
        return runs.execute(
            self.store,
            stage,
            self.project.project,
            plain,
            inputs,
            function,
            self.progress,
            fresh=stage in self.fresh,
        )

    def _choose(self) -> runs.Run:
        from pilothouse.choose.run import run

        use, candidates = self.project.use, self.project.candidates
        local = {
            c.name: self.project.folder / c.source.removeprefix("file:")
            for c in candidates
            if c.source.startswith("file:")
        }
        settings = {
            "use": use.model_dump(mode="json"),
            "candidates": [c.model_dump(mode="json") for c in candidates],
            "picked": self.project.model,
        }
        return self._execute(
            "choose", settings, {}, lambda ctx: run(ctx, use, candidates, picked=self.project.model, facts_from=local)
        )

    def _pull(self) -> runs.Run:
        from pilothouse.core.records import Report
        from pilothouse.store.pull import pull

        picked = self.project.candidate

        def step(_: runs.Context) -> Outcome:
            model = pull(
                self.store,
                picked.source,
                name=picked.name,
                sha256=picked.sha256,
                licence=picked.licence,
                folder=self.project.folder,
                progress=self.progress,
            )
            facts = {"asset": model.ref, "origin": model.origin, "licence": model.licence or "not stated"}
            facts |= {"size": f"{model.size / 1e6:.1f} MB", "sha256": model.files[0].sha256}
            summary = f"{picked.name} is {model.size / 1e6:.0f} MB, {model.licence or 'of unstated licence'}."
            return Outcome(Report("pull", "The foundation model", summary, facts=facts), {"model": model})

        return self._execute("pull", picked, {}, step)

    def _data(self) -> runs.Run:
        from pilothouse.data.run import run

        sources: dict[str, Asset] = {}
        for split in ("train", "dev", "test"):
            reference = getattr(self.project.data, split)
            if reference and ":" not in reference:
                path = _existing(self.project.folder / reference, f"data.{split}")
                name = f"{self.project.project}-{split}-source"
                sources[split] = self.store.add_asset("rows", name, {path.name: path}, origin=f"file:{reference}")
        prompt = self.project.system_prompt
        return self._execute(
            "data",
            self.project.data,
            {**sources, "prompt": self.prompt},
            lambda ctx: run(ctx, self.project.data, self.project.folder, prompt),
        )

    def _unpack(self) -> runs.Run:
        from pilothouse.tune.unpack import run

        model = self.output("pull", "model")
        return self._execute("unpack", {}, {"model": model}, lambda ctx: run(ctx, model))

    def _tune(self) -> runs.Run:
        from pilothouse.tune.run import run

        weights, dataset = self.output("unpack", "weights"), self.output("data", "dataset")
        settings, prompt = self.project.tune, self.prompt
        return self._execute(
            "tune",
            settings,
            {"weights": weights, "dataset": dataset, "prompt": prompt},
            lambda ctx: run(ctx, settings, weights, dataset, self.project.system_prompt),
        )

    def _export(self) -> runs.Run:
        from pilothouse.tune.export import run

        model, weights = self.output("pull", "model"), self.output("unpack", "weights")
        adapter = self.output("tune", "adapter")
        inputs = {"model": model, "weights": weights, "adapter": adapter}
        return self._execute("export", {}, inputs, lambda ctx: run(ctx, model, weights, adapter))

    def _evaluate(self) -> runs.Run:
        from pilothouse.evaluate.run import run

        settings, name = self.project.evaluate, self.project.project
        dataset = self.output("data", "dataset")

        def step(ctx: runs.Context) -> Outcome:
            url = self._url(guarded=True)
            arms = {"base": Endpoint(url, f"{name}-base"), "tuned": Endpoint(url, name)}
            return run(ctx, settings, rows.read(self.store, dataset, "test"), arms)

        return self._execute("evaluate", self._served_with(settings), self.served.assets | {"dataset": dataset}, step)

    def _parity(self) -> runs.Run:
        from pilothouse.release.parity import run

        settings, dataset = self.project.parity, self.output("data", "dataset")
        weights, adapter = self.output("unpack", "weights"), self.output("tune", "adapter")

        def step(ctx: runs.Context) -> Outcome:
            endpoint = Endpoint(self._url(guarded=False), self.project.project)
            items = rows.read(self.store, dataset, "dev")
            return run(ctx, settings, weights, adapter, items, self.project.system_prompt, endpoint)

        inputs = self.served.assets | {"dataset": dataset, "weights": weights, "trained": adapter}
        return self._execute("parity", self._served_with(settings), inputs, step)

    def _guard(self) -> runs.Run:
        from pilothouse.guard.run import run
        from pilothouse.redteam.run import prompts

        dataset, settings = self.output("data", "dataset"), self.project.guard
        both = {"guard": settings.model_dump(mode="json"), "redteam": self.project.redteam.model_dump(mode="json")}

        def step(ctx: runs.Context) -> Outcome:
            benign = [row.question for row in rows.read(self.store, dataset, "dev")]
            return run(ctx, settings, prompts(self.project.redteam), benign, folder=self.project.folder)

        return self._execute("guard", both, {"policy": self.policy, "dataset": dataset}, step)

    def _redteam(self) -> runs.Run:
        from pilothouse.redteam.run import run

        dataset, settings, name = self.output("data", "dataset"), self.project.redteam, self.project.project

        def step(ctx: runs.Context) -> Outcome:
            endpoints = {
                "off": Endpoint(self._url(guarded=False), name),
                "on": Endpoint(self._url(guarded=True), name),
            }
            canaries = msgspec.json.decode(self.store.read(dataset, "canaries.json"))
            return run(ctx, settings, endpoints, self.project.system_prompt, canaries)

        return self._execute("redteam", self._served_with(settings), self.served.assets | {"dataset": dataset}, step)

    def _measure(self) -> runs.Run:
        from pilothouse.measure.run import run

        dataset, settings = self.output("data", "dataset"), self.project.load

        def step(ctx: runs.Context) -> Outcome:
            endpoint = Endpoint(self._url(guarded=True), self.project.project)
            prompts = [with_system(row.messages, "") for row in rows.read(self.store, dataset, "dev")]
            return run(ctx, settings, self.project.use.slo, prompts, endpoint)

        both = {**self._served_with(settings), "slo": self.project.use.slo.model_dump(mode="json")}
        return self._execute("measure", both, self.served.assets | {"dataset": dataset}, step)

    @cached_property
    def served(self) -> Served:
        """What stands behind the endpoint: exactly this is evaluated, attacked, measured and released."""
        serve, use = self.project.serve, self.project.use
        where = "pilothouse.yaml: serve.engine"
        reads = registry.create("engines", serve.engine, where=where).format
        if reads == "none":
            what = f"engine {serve.engine} serves no weights, so it cannot serve a release"
            raise UserError(what, where=where, fix="Name it under serve.backends, beside an engine that does.")
        gguf = reads == "gguf"
        assets = {
            "base": self.output("export", "base") if gguf else self.output("unpack", "weights"),
            "adapter": self.output("export", "adapter") if gguf else self.output("tune", "adapter"),
            "prompt": self.prompt,
            "policy": self.policy,
        }
        engine = {"engine": serve.engine, "options": serve.options, "context": use.context, "streams": use.streams}
        return Served(self.project.project, assets, engine)

    def _url(self, *, guarded: bool) -> str:
        """Where the model answers, with or without its guard; starts the engine when it does not run yet."""
        if self._serving is None:
            self.progress.begin("starting the engine")
            self._serving = Serving(self.served, self.store, note=self.progress.note)
            self.progress.end()
        return self._serving.url(guarded=guarded)

    def _served_with(self, settings: Any) -> dict[str, Any]:
        return {"settings": settings.model_dump(mode="json"), "served": self.served.engine}


def _existing(path: Path, key: str) -> Path:
    if not path.is_file():
        raise UserError(f"no such file: {str(path)!r}", where=f"pilothouse.yaml: {key}")
    return path
