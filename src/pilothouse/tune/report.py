"""What a reader learns of a training run: losses before and after with intervals, speed, one row as it was learnt."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import msgspec

from pilothouse.core import stats
from pilothouse.core.project.schema import Tune
from pilothouse.core.records import Measure, Plot, Report, Series, Table
from pilothouse.tune.checkpoints import Curve

_LAST = 10


class Example(msgspec.Struct, frozen=True):
    """One training row as the model saw it."""

    row: str
    read: str
    learnt: str
    read_tokens: int
    learnt_tokens: int


def build(settings: Tune, curve: Curve, share: tuple[int, int], facts: dict[str, str], example: Example) -> Report:
    """The report of a finished run. share: trained parameters, all parameters."""
    steps = [curve.train[i] for i in sorted(curve.train)]
    tail = [s.loss for s in steps[-_LAST:] if s.loss is not None]
    seconds = sum(s.seconds for s in steps)
    measures = [
        stats.mean(
            "tune.train_loss_end", tail, unit="nats", label=f"train loss, last {len(tail)} steps", better="lower"
        ),
        *_dev(curve),
        Measure(
            "tune.trainable_share",
            share[0] / share[1],
            "share",
            n=share[1],
            method="counted",
            label="trained parameters",
        ),
        stats.mean(
            "tune.tokens_per_s",
            [s.tokens / s.seconds for s in steps if s.seconds > 0],
            unit="tok/s",
            label="tokens of training rows a second, by step",
        ),
        Measure(
            "tune.seconds",
            seconds,
            "s",
            n=len(steps),
            method="sum of wall time over steps, all attempts",
            better="lower",
            label="time in training steps",
        ),
    ]
    start, end = (next((m for m in measures if m.name == f"tune.eval_loss_{w}"), None) for w in ("start", "end"))
    fell = f"{measures[0].value:.2f} train loss at the end" if tail else ""
    if start and end and start.value is not None and end.value is not None:
        fell = f"held-out loss went from {start.value:.2f} to {end.value:.2f} nats a token"
    return Report(
        "tune",
        "Training",
        f"{settings.steps} steps of {settings.batch_size} rows with {settings.method}: {fell}.",
        tuple(measures),
        tables=(_example(example),),
        plots=(_plot(curve),),
        facts=facts,
        details={"example": msgspec.to_builtins(example), "curve": _curve(curve)},
    )


def _dev(curve: Curve) -> list[Measure]:
    """Dev loss before and after, and the paired change over the same rows."""
    if not curve.dev:
        return []
    first, last = curve.dev[min(curve.dev)].dev, curve.dev[max(curve.dev)].dev
    label = "loss a token on held-out rows, mean over rows"
    return [
        stats.mean("tune.eval_loss_start", first, unit="nats", better="lower", label=f"{label}, before"),
        stats.mean("tune.eval_loss_end", last, unit="nats", better="lower", label=f"{label}, after"),
        stats.paired("tune.eval_loss_change", last, first, unit="nats", better="lower", label=f"{label}, change"),
    ]


def _plot(curve: Curve) -> Plot:
    train = sorted(curve.train)
    series = [Series("train", list(train), [curve.train[i].loss for i in train])]
    if curve.dev:
        at = sorted(curve.dev)
        dev = [stats.mean("dev", curve.dev[i].dev) for i in at]
        series.append(
            Series(
                "dev",
                list(at),
                [m.value for m in dev],
                [m.low for m in dev],
                [m.high for m in dev],
            )
        )
    note = "train: each step's batch; dev: held-out rows, 95 % interval over rows"
    return Plot("line", "Loss", "step", "nats a learnt token", series, note)


def _example(example: Example) -> Table:
    return Table(
        "One training row as the model sees it",
        ["part", "tokens", "text"],
        [["read only", example.read_tokens, example.read], ["learnt", example.learnt_tokens, example.learnt]],
        note=f"row {example.row}",
    )


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "train": [[i, curve.train[i].loss] for i in sorted(curve.train)],
        "dev": [[i, fmean(curve.dev[i].dev)] for i in sorted(curve.dev)],
    }
