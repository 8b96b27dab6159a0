"""What the project's policy says about a request or an answer: rules compiled once, asked for every text."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pilothouse.core import registry
from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Guard, Rule
from pilothouse.core.records import Finding
from pilothouse.guard.base import Action, Detector, Direction, Emission, Exact, InputDecision, Span, Window
from pilothouse.guard.stream import Hit, Program, Scanner, compile_program

__all__ = ["Emission", "InputDecision", "OutputStream", "Policy", "compile_policy"]

_STRENGTH: dict[Action, int] = {"pass": 0, "flag": 1, "redact": 2, "block": 3}


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its detector."""

    index: int
    rule: Rule
    detector: Detector

    @property
    def label(self) -> str:
        """What a finding's note says about where it comes from."""
        return f"rule {self.index + 1}: {self.rule.detector} → {self.rule.action}"

    def finding(self, category: str, start: int, end: int, score: float, *, note: str = "") -> Finding:
        """A record of what this rule saw. An "error" blocks if the rule fails closed."""
        action = self.rule.action if self.rule.action != "flag" else "none"
        if category == "error":
            action = "block" if self.rule.on_error == "closed" else "none"
        return Finding(
            detector=self.rule.detector,
            category=category,
            score=score,
            start=start,
            end=end,
            action=action,
            owasp=self.detector.owasp,
            note=f"{self.label}; {note}" if note else self.label,
        )

    def verdicts(self, spans: Sequence[Span], error: str) -> list[Finding]:
        """Findings of a detector that was asked for a whole text; its failure blocks if the rule fails closed."""
        if error:
            return [self.finding("error", 0, 0, 0.0, note=error)]
        return [self.finding(s.category, s.start, s.end, s.score, note=s.note) for s in spans]


@dataclass(frozen=True, slots=True)
class Lane:
    """The rules of one direction: those that cut text exactly, those that only flag exactly, those with a window."""

    cutting: Program | None
    flagging: Program | None
    windows: tuple[CompiledRule, ...]
    rules: tuple[CompiledRule, ...]

    def seen(self, hit: Hit) -> Finding:
        """A scanner's hit as a finding."""
        rule, pattern = self.rules[hit.entry.order], hit.entry.pattern
        if hit.failed:
            return rule.finding("error", hit.start, hit.end, 0.0, note=f"check raised {hit.failed}")
        return rule.finding(pattern.category, hit.start, hit.end, pattern.score)


class Policy:
    """Compiled rules. Safe to use from several streams at once: all state lives in `OutputStream`."""

    def __init__(self, rules: Sequence[CompiledRule], refusal: str) -> None:
        self.rules, self.refusal = tuple(rules), refusal
        self._input, self._output = _lane(self.rules, "input"), _lane(self.rules, "output")

    def check_input(self, texts: Sequence[str]) -> InputDecision:
        """One decision over all texts of a request. Detectors that fail decide by their rule's on_error."""
        return _decide(self._input, texts)

    def check_output(self, text: str) -> InputDecision:
        """The same for a whole answer that was not streamed. For exact rules it equals what `output` does in pieces,
        except that here the text goes on after a blocking span (cut), for the record."""
        return _decide(self._output, [text])

    def output(self) -> OutputStream:
        """A guard for one answer (one choice, or one tool call's arguments) that arrives in pieces."""
        return OutputStream(self._output)


class OutputStream:
    """Guards one text in pieces: `feed` pieces, then `finish`. After a block everything further is empty."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._cutting = Scanner(lane.cutting) if lane.cutting else None
        self._flagging = Scanner(lane.flagging, cut=False) if lane.flagging else None
        self._windows = [_Window(rule) for rule in lane.windows]
        self._findings: list[Finding] = []
        self._unscanned: dict[str, None] = {}
        self.blocked: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was seen so far, in the order in which it was decided."""
        return tuple(self._findings)

    @property
    def unscanned(self) -> tuple[str, ...]:
        """Detectors that failed on this text: it must not be recorded as passed."""
        return tuple(self._unscanned)

    @property
    def held(self) -> int:
        """Characters that have come in and wait for a decision."""
        return self._cutting.held if self._cutting else 0

    def feed(self, text: str) -> Emission:
        """What may go out now."""
        return self._step(text, final=False)

    def finish(self) -> Emission:
        """The rest: the text is complete."""
        return self._step("", final=True)

    def _step(self, text: str, *, final: bool) -> Emission:
        if self.blocked is not None:
            return Emission("", self.blocked)
        if self._look(text, final):
            return Emission("", self.blocked)
        if not self._cutting:
            return Emission(text)
        shown, stop = self._cutting.feed(text, final=final)
        if self._cutting.hits:
            self._take(self._cutting, stop)
        return Emission(shown, self.blocked)

    def _look(self, text: str, final: bool) -> bool:
        """Ask the rules that only look: windows, and exact ones that flag. True if the answer ends here."""
        for window in self._windows:
            spans, error = window.feed(text, final)
            self._window_says(window, spans, error)
        if self._flagging:
            _, stop = self._flagging.feed(text, final=final)
            self._take(self._flagging, stop)
        return self.blocked is not None

    def _take(self, scanner: Scanner, stop: Hit | None) -> None:
        for hit in scanner.hits:
            self._findings.append(self._lane.seen(hit))
            if hit.failed:
                self._unscanned[self._lane.rules[hit.entry.order].rule.detector] = None
        scanner.hits.clear()
        if stop:
            self.blocked = self._lane.seen(stop)

    def _window_says(self, window: _Window, spans: Sequence[Span], error: str) -> None:
        rule = window.rule
        if error:
            self._unscanned[rule.rule.detector] = None
        for finding in rule.verdicts(spans, error):
            self._findings.append(finding)
            if finding.action == "block" and self.blocked is None:
                self.blocked = finding


@dataclass(slots=True)
class _Window:
    """The sliding window of one rule over one stream. A category is reported once; a failed detector rests."""

    rule: CompiledRule
    text: str = ""
    base: int = 0
    new: int = 0
    told: set[str] = field(default_factory=set)
    broken: bool = False

    def feed(self, text: str, final: bool) -> tuple[list[Span], str]:
        """Spans above the threshold not told before (offsets of the whole text), or why the detector failed."""
        shape = self.rule.detector.stream
        assert isinstance(shape, Window)
        self.text += text
        self.new += len(text)
        if self.broken or not self.new or (self.new < shape.stride and not final):
            return [], ""
        spans, error = _inspect(self.rule, self.text)
        self.broken, self.new = bool(error), 0
        fresh = [
            Span(s.start + self.base, s.end + self.base, s.category, s.score, s.note)
            for s in spans
            if s.category not in self.told
        ]
        self.told.update(s.category for s in fresh)
        keep = shape.size - shape.stride
        if len(self.text) > keep:
            self.base += len(self.text) - keep
            self.text = self.text[-keep:]
        return fresh, error


def _decide(lane: Lane, texts: Sequence[str]) -> InputDecision:
    findings: list[Finding] = []
    unscanned: dict[str, None] = {}
    shown: list[str] = []
    action: Action = "pass"
    by = ""

    def add(rule: CompiledRule, finding: Finding, failed: bool) -> None:
        nonlocal action, by
        findings.append(finding)
        if failed:
            unscanned[rule.rule.detector] = None
        weight: Action = "block" if finding.action == "block" else "flag" if failed else rule.rule.action
        if _STRENGTH[weight] > _STRENGTH[action]:
            action, by = weight, rule.rule.detector

    for text in texts:
        for rule in lane.windows:
            spans, error = _inspect(rule, text)
            for finding in rule.verdicts(spans, error):
                add(rule, finding, bool(error))
        clean = text
        for program in (lane.flagging, lane.cutting):
            if program is None:
                continue
            clean, hits = _cut_everything(program, text)
            for hit in hits:
                add(lane.rules[hit.entry.order], lane.seen(hit), bool(hit.failed))
        shown.append(clean if lane.cutting else text)
    return InputDecision(action, tuple(shown), tuple(findings), by, tuple(unscanned))


def _cut_everything(program: Program, text: str) -> tuple[str, list[Hit]]:
    """Redact blocking hits too: a refused request may be kept, its secrets not."""
    scanner = Scanner(program, stop=False)
    shown, _ = scanner.feed(text, final=True)
    return shown, scanner.hits


def _inspect(rule: CompiledRule, text: str) -> tuple[list[Span], str]:
    """Spans at or above the rule's threshold, or a word on why there are none."""
    try:
        if rule.detector.cost in ("model", "judge"):
            spans = _pool().submit(rule.detector.inspect, text).result(rule.rule.timeout_ms / 1000)
        else:
            spans = rule.detector.inspect(text)
        return [s for s in spans if s.score >= rule.rule.threshold], ""
    except TimeoutError:
        return [], f"no verdict within {rule.rule.timeout_ms:g} ms"
    except Exception as e:  # a third party's detector: whatever it raises, the rule's on_error decides
        return [], f"raised {type(e).__name__}"


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="guard")


def _lane(rules: Sequence[CompiledRule], direction: Direction) -> Lane:
    here = [r for r in rules if direction in r.rule.on]
    exact = [(r, r.detector.stream.patterns) for r in here if isinstance(r.detector.stream, Exact)]

    def program(flag: bool) -> Program | None:
        wanted = {r.index: patterns for r, patterns in exact if (r.rule.action == "flag") == flag}
        return compile_program(
            (
                [p for p in wanted.get(r.index, ()) if p.score >= r.rule.threshold],
                r.rule.action == "block",
                r.rule.on_error == "closed",
            )
            for r in rules
        )

    windows = tuple(r for r in here if isinstance(r.detector.stream, Window))
    return Lane(program(False), program(True), windows, tuple(rules))


def compile_policy(settings: Guard, *, folder: Path | None = None) -> Policy:
    """The policy of a project. An option `file:PATH` (relative to `folder`) becomes the file's non-empty lines."""
    known = registry.modules("detectors")
    rules = []
    for index, rule in enumerate(settings.rules):
        where = f"guard.rules[{index}]"
        if rule.detector not in known:
            near = difflib.get_close_matches(rule.detector, known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            raise UserError(f"no detector is called {rule.detector!r}", where=f"{where}.detector", fix=fix)
        options = {key: _resolved(value, folder, f"{where}.options.{key}") for key, value in rule.options.items()}
        try:
            detector: Detector = registry.create("detectors", rule.detector, where=where, **options)
        except (TypeError, ValueError) as e:
            raise UserError(f"detector {rule.detector!r} does not take these options: {e}", where=where) from None
        compiled = CompiledRule(index, rule, detector)
        _check_rule(compiled, where)
        rules.append(compiled)
    return Policy(rules, settings.refusal)


def _check_rule(rule: CompiledRule, where: str) -> None:
    name, shape = rule.rule.detector, rule.detector.stream
    if rule.rule.action == "redact" and isinstance(shape, Window):
        raise UserError(
            f"detector {name!r} judges whole texts and cannot redact",
            where=f"{where}.action",
            fix="Use 'block' or 'flag'.",
        )
    for direction in rule.rule.on:
        if direction not in rule.detector.directions:
            raise UserError(f"detector {name!r} does not work on {direction}", where=f"{where}.on")
    if isinstance(shape, Exact):
        try:
            compile_program([(shape.patterns, False, True)])
        except ValueError as e:
            raise UserError(f"detector {name!r}: {e}", where=where) from None


def _resolved(value: Any, folder: Path | None, where: str) -> Any:
    if not (isinstance(value, str) and value.startswith("file:")):
        return value
    path = (folder or Path()) / value.removeprefix("file:")
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{value!r} cannot be read ({type(e).__name__})", where=where) from None
