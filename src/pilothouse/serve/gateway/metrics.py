"""The gateway's own figures in Prometheus' text format: counted in shared memory, summed over processes at reading."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.layout import EDGES, FIRST, GENERATION, HISTOGRAMS, PROMPT, STATUS_COLUMN, STATUSES

if TYPE_CHECKING:
    from pilothouse.serve.gateway.routing.fleet import Fleet


_DECISION = {decision: column for column, decision in enumerate(sh.DECISIONS)}


class Metrics:
    """Counts of one process; the text is about all."""

    def __init__(self, shared: sh.Shared, fleet: Fleet, detectors: Sequence[str] = ()) -> None:
        self._shared, self._fleet = shared, fleet
        self.detectors = ("", *sorted(set(detectors)))[: sh.DETECTORS - 1]
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self, shared, fleet))

    def request(self, model: int, status: int) -> None:
        """One more answered."""
        self._shared.models.add(model, STATUS_COLUMN.get(status, len(STATUSES) - 1))

    def observe(self, model: int, values: Sequence[tuple[int, float]]) -> None:
        """One more value of each of these of HISTOGRAMS."""
        table = self._shared.models
        cells, at = table.cells, table.at(model)
        for histogram, value in values:
            edges, first = EDGES[histogram], at + FIRST[histogram]
            cells[first + bisect_left(edges, value)] += 1.0
            cells[first + len(edges) + 1] += value

    def guard(self, decision: str, detector: str) -> None:
        """One more decision of the guard; '' stands for no detector in particular."""
        row = 0
        if detector:
            row = self.detectors.index(detector) if detector in self.detectors else sh.DETECTORS - 1
        self._shared.guard.add(row, _DECISION[decision])

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(self, metrics: Metrics, shared: sh.Shared, fleet: Fleet) -> None:
        self._metrics, self._shared, self._fleet = metrics, shared, fleet

    def describe(self) -> list[Metric]:
        """Nothing before the first scrape: the families are known only with their rows."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Families over all processes."""
        names = {row: name for name, row in self._fleet.rows.items()} | {sh.MODELS - 1: ""}
        rows = {name: self._shared.models.sums(row) for row, name in names.items()}
        rows = {name: sums for name, sums in rows.items() if name or any(sums)}
        requests = CounterMetricFamily("pilothouse_requests", "Requests answered", labels=["model", "status"])
        tokens = CounterMetricFamily("gen_ai_client_token_usage", "Tokens", labels=["model", "type"])
        for name, sums in rows.items():
            for status, n in zip(STATUSES, sums, strict=False):
                if n:
                    requests.add_metric([name, str(status or "other")], n)
            for kind, histogram in (("input", PROMPT), ("output", GENERATION)):
                tokens.add_metric([name, kind], sums[FIRST[histogram] + len(HISTOGRAMS[histogram][2]) + 1])
        yield requests
        yield tokens
        for (title, meaning, edges), first in zip(HISTOGRAMS, FIRST, strict=True):
            family = HistogramMetricFamily(title, meaning, labels=["model"])
            for name, sums in rows.items():
                if name:
                    family.add_metric([name], _cumulative(edges, sums[first:]), sums[first + len(edges) + 1])
            yield family
        yield from self._guard()
        yield from self._members()
        own = self._shared.own
        for title, meaning, column in (
            ("pilothouse_requests_in_flight", "Requests being answered", sh.IN_FLIGHT),
            ("pilothouse_requests_waiting", "Requests waiting for admission", sh.WAITING),
            ("pilothouse_exchanges_dropped", "Exchanges not recorded: the queue was full", sh.DROPPED),
        ):
            unwritten = self._shared.gauges.own(0, sh.G_UNWRITTEN) if column == sh.DROPPED else 0.0
            yield GaugeMetricFamily(title, meaning, own.total(0, column) + unwritten)

    def _guard(self) -> Iterator[Metric]:
        family = CounterMetricFamily("pilothouse_guard_decisions", "Decisions", labels=["decision", "detector"])
        for row, detector in [*enumerate(self._metrics.detectors), (sh.DETECTORS - 1, "other")]:
            for decision, n in zip(sh.DECISIONS, self._shared.guard.sums(row), strict=True):
                if n:
                    family.add_metric([decision, detector], n)
        yield family

    def _members(self) -> Iterator[Metric]:
        label = ["engine"]
        ready = GaugeMetricFamily("pilothouse_engine_ready", "1 while the engine answers", labels=label)
        restarts = GaugeMetricFamily("pilothouse_engine_restarts", "Restarts since start", labels=label)
        running = GaugeMetricFamily("pilothouse_engine_requests_running", "Requests sent to it", labels=label)
        outstanding = GaugeMetricFamily("pilothouse_engine_tokens_outstanding", "Tokens it owes", labels=label)
        opened = GaugeMetricFamily("pilothouse_engine_circuit_open", "1 while it is left alone", labels=label)
        told = [
            GaugeMetricFamily(f"pilothouse_engine_told_{what}", f"What the engine itself says: {what}", labels=label)
            for what in sh.GAUGE_COLUMNS[:3]
        ]
        for row, member in enumerate(self._fleet.members):
            name = [member.name]
            ready.add_metric(name, float(member.ready))
            restarts.add_metric(name, member.restarts)
            running.add_metric(name, self._shared.members.total(row, sh.M_RUNNING))
            outstanding.add_metric(name, self._shared.members.total(row, sh.M_TOKENS))
            opened.add_metric(name, float(self._fleet.is_open(row)))
            for column, family in enumerate(told):
                family.add_metric(name, self._shared.gauges.own(row, column))
        yield from (ready, restarts, running, outstanding, opened, *told)


def _cumulative(edges: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    buckets, so_far = [], 0.0
    for edge, count in zip([*map(str, map(float, edges)), "+Inf"], counts, strict=False):
        so_far += count
        buckets.append((edge, so_far))
    return buckets
