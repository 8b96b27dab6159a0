"""Exact guarding of a stream: hold back only what could still become a match (DESIGN 6, lane 1).

Definition, the same for a whole text and for any chunking of it. A hit is (start, end, pattern): the pattern matches at
`start` with its borders, its check passed. Every start in the text is tried with every pattern, also within other
hits (but a hit inside the same pattern's last one is dropped).
Hits in order of their start (then the longer, then the earlier rule) are cut out of the text: a hit that overlaps text
already cut only extends the cut. A blocking hit ends the text where it starts.

Stream: a start is *undecided* while the text from it to the end is a beginning of some pattern's word
(`partial.begins`, the right border's one character included). No match from a decided start can reach the end of the
text so far, so what `re` says there is final. Text before the first undecided start is emitted, the rest is held.
Patterns are bounded, so at most HOLD_CAP characters are ever held; runs of unbounded length (`tail`, `until`) are cut
as they arrive, never held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pilothouse.guard import partial
from pilothouse.guard.base import HOLD_CAP, Cost, Direction, Exact, Pattern, Span

UNTIL_LIMIT = 16_384
_TERMINATOR = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """A pattern as the program runs it. block: the text ends at its hits; fail_closed: a failing check is a block."""

    order: int
    pattern: Pattern
    block: bool
    fail_closed: bool
    regex: re.Pattern[str]
    tail: re.Pattern[str] | None
    until: re.Pattern[str] | None


class Hit(NamedTuple):
    """A decided match, in offsets of the whole text, without its tail. `failed`: the check raised: nobody knows."""

    start: int
    end: int
    entry: Entry
    block: bool
    failed: str = ""
    cut: bool = False  # by the check: then no run follows


@dataclass(slots=True)
class Run:
    """What follows a hit and belongs to it: began is fixed, `at` is how far the text has been followed."""

    entry: Entry
    began: int
    at: int


@dataclass(frozen=True, slots=True)
class Program:
    """Patterns compiled together. `full` finds the next start with any match, `begun` the first undecided start."""

    entries: tuple[Entry, ...]
    full: re.Pattern[str]
    begun: re.Pattern[str]
    reach: int


def compile_program(rules: Iterable[tuple[Sequence[Pattern], bool, bool]]) -> Program | None:
    """A program from (patterns, block, fail_closed) per rule, in order; None when there is nothing to find.

    ValueError for a pattern outside the subset, or one that would have to hold more than HOLD_CAP characters.
    """
    entries: list[Entry] = []
    full: dict[str, list[str]] = {}
    begun: dict[str, list[str]] = {}
    reach = 1
    for order, (patterns, block, fail_closed) in enumerate(rules):
        for pattern in patterns:
            tree = partial.parse(pattern.source)
            length = partial.longest(tree)
            if not 0 < length < HOLD_CAP:
                raise ValueError(f"{pattern.category}: a match may have 1 to {HOLD_CAP - 1} characters, not {length}")
            reach = max(reach, length)
            before = f"(?<!{pattern.left})" if pattern.left else ""
            after = f"(?!{pattern.right})" if pattern.right else ""
            full.setdefault(before, []).append(partial.whole(tree) + after)
            begun.setdefault(before, []).append(partial.begins(tree))
            regex = re.compile(f"{before}(?:{pattern.source}){after}")
            if regex.groups > 1:
                raise ValueError(f"{pattern.category}: at most one group, not {regex.groups}")
            tail = re.compile(f"{pattern.tail}*") if pattern.tail else None
            until = re.compile(pattern.until) if pattern.until else None
            entries.append(Entry(order, pattern, block, fail_closed, regex, tail, until))
    if not entries:
        return None
    return Program(tuple(entries), _join(full), _join(begun), reach)


def _join(groups: dict[str, list[str]]) -> re.Pattern[str]:
    return re.compile("|".join(f"{before}(?:{'|'.join(sources)})" for before, sources in groups.items()))


class Scanner:
    """Runs a program over one text in pieces. Feed, then feed with `final`; `held` is what the reader waits for.

    cut: replace hits. Without it the text passes at once and hits are only reported.
    stop: a blocking hit ends the text. Without it, it is replaced as the others are.
    """

    def __init__(self, program: Program, *, cut: bool = True, stop: bool = True) -> None:
        self._program, self._cut, self._stop = program, cut, stop
        self._text = ""
        self._base = 0  # offset of _text[0] in the whole text
        self._next = 0  # first start not yet tried
        self._done = 0  # everything before this offset is emitted or cut
        self._pending: list[Hit] = []
        self._last: dict[int, tuple[int, int]] = {}  # each entry's last hit
        self._runs: list[Run] = []  # those that may go on
        self.hits: list[Hit] = []
        self.held = 0

    def feed(self, text: str, *, final: bool = False) -> tuple[str, Hit | None]:
        """What may be shown now, and the blocking hit if the text ends here (feed nothing more then)."""
        self._text += text
        size = self._base + len(self._text)
        edge = size if final else self._edge()
        self._try_starts(edge)
        shown, blocked = self._emit(edge, size)
        self.held = max(0, size - max(edge, self._done))
        keep = min(edge - 1, size - _TERMINATOR) if self._runs else edge - 1
        if keep > self._base:
            self._text, self._base = self._text[keep - self._base :], keep
        return shown, blocked

    def _edge(self) -> int:
        """The first undecided start: no pattern reaches farther back than `reach`."""
        at = max(self._next - self._base, len(self._text) - self._program.reach, 0)
        found = self._program.begun.search(self._text, at)
        return self._base + (found.start() if found else len(self._text))

    def _try_starts(self, edge: int) -> None:
        text, base, search = self._text, self._base, self._program.full.search
        at, end = self._next - base, edge - base
        while at < end and (found := search(text, at)) and (start := found.start()) < end:
            for entry in self._program.entries:
                if match := entry.regex.match(text, start):
                    self._judge(entry, match)
            at = start + 1
        self._next = edge

    def _judge(self, entry: Entry, match: re.Match[str]) -> None:
        start, end = match.span(entry.regex.groups)
        block, failed, whole = entry.block, "", end
        if entry.pattern.check is not None:
            try:
                end = min(end, start + entry.pattern.check(match[entry.regex.groups]))
            except Exception as e:  # a third party's check: whatever it raises, the rule's on_error decides
                block, failed = entry.fail_closed, type(e).__name__
        known = self._last.get(id(entry), (0, 0))
        if end <= start or (known[0] <= self._base + start and self._base + end <= known[1]):
            return
        hit = Hit(self._base + start, self._base + end, entry, block, failed, end < whole)
        self._last[id(entry)] = (hit.start, hit.end)
        if failed and not block:
            self.hits.append(hit)
        else:
            self._pending.append(hit)

    def _emit(self, edge: int, size: int) -> tuple[str, Hit | None]:
        if not self._cut:
            return self._report(size)
        out: list[str] = []
        if self._runs:
            self._runs = [run for run in self._runs if self._follow(run, size)]
        if self._pending:
            self._pending.sort(key=lambda h: (h.start, -h.end, h.entry.order))
        while self._pending and self._pending[0].start < edge:
            hit = self._pending.pop(0)
            self.hits.append(hit)
            if hit.block and self._stop:
                out.append(self._raw(self._done, hit.start))
                return "".join(out), hit
            if hit.start >= self._done:
                out.append(self._raw(self._done, hit.start))
                out.append(hit.entry.pattern.label)
            self._done = max(self._done, hit.end)
            if not hit.cut and (hit.entry.tail or hit.entry.until):
                run = Run(hit.entry, hit.end, hit.end)
                if self._follow(run, size):
                    self._runs.append(run)
        if self._done < edge:
            out.append(self._raw(self._done, edge))
            self._done = edge
        return "".join(out), None

    def _report(self, size: int) -> tuple[str, Hit | None]:
        self.hits += self._pending
        blocking = next((h for h in self._pending if h.block and h.failed), None)
        self._pending.clear()
        start, self._done = self._done, size
        return self._raw(start, size), blocking

    def _follow(self, run: Run, size: int) -> bool:
        """Cut the run as far as it has arrived; True if it may go on."""
        base, limit = self._base, run.began + UNTIL_LIMIT
        if run.entry.tail:
            found = run.entry.tail.match(self._text, run.at - base)
            run.at = base + found.end() if found else run.at
            goes_on = run.at >= size
        else:
            assert run.entry.until is not None
            found = run.entry.until.search(self._text, max(run.began - base, 0))
            inside = found is not None and base + found.end() <= limit
            run.at = base + found.end() if found and inside else min(size, limit)
            goes_on = not inside and size < limit
        self._done = max(self._done, run.at)
        return goes_on

    def _raw(self, start: int, end: int) -> str:
        return self._text[start - self._base : end - self._base] if end > start else ""


def redact(program: Program, text: str) -> tuple[str, list[Hit], Hit | None]:
    """A whole text at once: what may be shown, every hit, and the blocking one if there is one."""
    scanner = Scanner(program)
    shown, blocked = scanner.feed(text, final=True)
    return shown, scanner.hits, blocked


@dataclass(frozen=True)
class PatternDetector:
    """A detector made of patterns: what most exact members of `guard/detectors` return from `create`."""

    name: str
    patterns: tuple[Pattern, ...]
    owasp: tuple[str, ...] = ()
    cost: Cost = "micro"
    directions: tuple[Direction, ...] = ("input", "output")
    _program: list[Program | None] = field(default_factory=list, repr=False, compare=False)

    @property
    def stream(self) -> Exact:
        """Exact, by its patterns."""
        return Exact(self.patterns)

    def inspect(self, text: str) -> list[Span]:
        """Every hit in a whole text; a failing check raises."""
        if not self._program:
            self._program.append(compile_program([(self.patterns, False, True)]))
        program = self._program[0]
        if program is None:
            return []
        scanner = Scanner(program, cut=False)
        scanner.feed(text, final=True)
        for hit in scanner.hits:
            if hit.failed:
                raise RuntimeError(f"the check of {hit.entry.pattern.category!r} raised {hit.failed}")
        return [Span(h.start, h.end, h.entry.pattern.category, h.entry.pattern.score) for h in scanner.hits]
