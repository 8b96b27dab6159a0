"""The records that stages exchange: measures, reports, assets, findings, gates. Frozen; JSON in and out by msgspec."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Better = Literal["higher", "lower", "neither"]


class Measure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A number with its interval, n and method; no bare numbers.

    name is dotted and unique within a release: `<stage>.<metric>[.<arm>]`, e.g. `evaluate.intent_match.tuned`.
    value is None when it could not be measured; `method` then says why. low/high bound the `level` interval.
    unit: "share" (0..1), "ms", "s", "tok/s", "req/s", "nats", "MB", "count", …
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int = 0
    method: str = ""
    level: float = 0.95
    better: Better = "neither"
    label: str = ""


class Series(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line or one set of points in a plot; low/high draw a band or error bars."""

    name: str
    x: list[Any]
    y: list[float | None]
    low: list[float | None] = []
    high: list[float | None] = []


class Plot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plot as data; whoever shows it draws it. `interval` is a dot-and-whisker chart, `ecdf` takes samples as y."""

    kind: Literal["line", "interval", "bar", "ecdf"]
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    note: str = ""


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """A small table to show; cells are str, int, float, bool or None."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run leaves to read. `summary` is one plain sentence. `facts` are short key–value lines.

    `details` holds the stage's own typed record as plain JSON, for stages downstream and for `--json`.
    """

    stage: str
    title: str
    summary: str
    measures: tuple[Measure, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    facts: dict[str, str] = {}
    details: dict[str, Any] = {}

    def measure(self, name: str) -> Measure | None:
        """The measure of that full name, or None."""
        return next((m for m in self.measures if m.name == name), None)


class AssetFile(msgspec.Struct, frozen=True):
    """One file of an asset: relative POSIX path, sha256 of its bytes, size in bytes."""

    path: str
    sha256: str
    size: int


class Asset(msgspec.Struct, frozen=True, omit_defaults=True):
    """An immutable, content-addressed thing: a model, adapter, dataset, policy, prompt or rows.

    The digest covers kind, files and meta; not name, origin or time.
    """

    kind: str
    name: str
    digest: str
    files: tuple[AssetFile, ...]
    meta: dict[str, Any] = {}
    licence: str = ""
    origin: str = ""
    created: float = 0.0

    @property
    def ref(self) -> str:
        """`kind:name@digest`, the digest cut to 12 digits: what people read and type."""
        return f"{self.kind}:{self.name}@{self.digest[:12]}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a detector or an attack's judge saw. start/end: character span in the inspected text."""

    detector: str
    category: str
    score: float
    start: int = 0
    end: int = 0
    action: Literal["none", "redact", "block"] = "none"
    owasp: tuple[str, ...] = ()
    note: str = ""


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a model answers in OpenAI's protocol. `url` ends before `/v1`. The key is never shown."""

    url: str
    model: str
    api_key: str = ""
    extra: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, model={self.model!r})"

    __str__ = __repr__


Verdict = Literal["pass", "fail", "inconclusive"]


class GateResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """A gate's rule, the measures it read and its verdict. `needed`: about how many samples would settle it."""

    name: str
    rule: str
    verdict: Verdict
    reason: str
    measures: tuple[Measure, ...] = ()
    needed: int | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a stage function returns to the run runner: its report and the assets it made, by role."""

    report: Report
    outputs: dict[str, Asset] = {}


def to_json(value: Any, *, pretty: bool = False) -> bytes:
    """JSON bytes of a record (or of plain data), keys in definition order."""
    data = msgspec.json.encode(value)
    return msgspec.json.format(data, indent=2) if pretty else data
