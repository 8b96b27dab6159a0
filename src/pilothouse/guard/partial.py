"""Could this text still become a match? From a bounded regular expression, the one that matches its beginnings.

`parse` reads a subset of Python's syntax: literals, escapes, classes, `.`, groups `(…)`, `(?:…)`, `(?i:…)`, `|`, and
the quantifiers `?`, `{n}`, `{m,n}`. Unbounded quantifiers, anchors and lookarounds are refused: borders are the
pattern's own fields. For a node x, `inside(x)` matches to the end of the text (\\Z) wherever the text ends before x is
complete:

    inside(a) = \\Z                inside(x|y) = inside(x)|inside(y)
    inside(x{m,n}) = x{0,n-1} inside(x)
    inside(xy) = inside(x) | x inside(y)

so `inside(x) | x\\Z` holds at a position exactly if the rest of the text is a beginning of some word of x. `begins` is
the same for a rest of at least one character, written so that its first step reads a character: `re` then rejects most
positions by one comparison.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Atom:
    """One character: a literal, an escape or a class, as written."""

    source: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """`node{low,high}`."""

    node: Node
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """Upper and lower case alike."""

    node: Node


Node = Atom | Repeat | Sequence | Either | Folded


def parse(source: str) -> Node:
    """The tree of a pattern; ValueError names what the subset lacks."""
    node, at = _either(source, 0)
    if at != len(source):
        raise ValueError(f"unbalanced ')' at {at} in {source!r}")
    return node


def longest(node: Node) -> int:
    """Characters of the longest word."""
    match node:
        case Atom():
            return 1
        case Repeat(inner, _, high):
            return high * longest(inner)
        case Sequence(nodes):
            return sum(map(longest, nodes))
        case Either(nodes):
            return max(map(longest, nodes))
        case Folded(inner):
            return longest(inner)


def begins(node: Node) -> str:
    """A regular expression: from here to the end of the text stands a beginning of a word (the whole word included)."""
    return "|".join(filter(None, (_started(node), f"{whole(node)}\\Z")))


def _started(node: Node) -> str:
    """inside(node) less the empty beginning; "" if there is none."""
    match node:
        case Atom():
            return ""
        case Repeat(inner, _, high):
            more = f"(?:{whole(inner)}){{1,{high - 1}}}{_inside(inner)}" if high > 1 else ""
            return "|".join(filter(None, (_started(inner), more)))
        case Sequence(nodes):
            rest = Sequence(nodes[1:])
            return "|".join(
                filter(None, (_started(nodes[0]), f"{whole(nodes[0])}{_inside(rest)}" if rest.nodes else ""))
            )
        case Either(nodes):
            return "|".join(filter(None, map(_started, nodes)))
        case Folded(inner):
            return f"(?i:{_started(inner)})" if _started(inner) else ""


def whole(node: Node) -> str:
    """The pattern itself, without capturing groups."""
    match node:
        case Atom(source):
            return source
        case Repeat(inner, low, high):
            return f"(?:{whole(inner)}){{{low},{high}}}"
        case Sequence(nodes):
            return "".join(map(whole, nodes))
        case Either(nodes):
            return f"(?:{'|'.join(map(whole, nodes))})"
        case Folded(inner):
            return f"(?i:{whole(inner)})"


def _inside(node: Node) -> str:
    match node:
        case Atom():
            return "\\Z"
        case Repeat(inner, _, high):
            return f"(?:{whole(inner)}){{0,{high - 1}}}{_inside(inner)}"
        case Sequence(nodes):
            text = "(?!)"
            for part in reversed(nodes):
                text = f"(?:{_inside(part)}|{whole(part)}{text})" if text != "(?!)" else f"(?:{_inside(part)})"
            return text
        case Either(nodes):
            return f"(?:{'|'.join(map(_inside, nodes))})"
        case Folded(inner):
            return f"(?i:{_inside(inner)})"


def _either(source: str, at: int) -> tuple[Node, int]:
    options: list[Node] = []
    while True:
        node, at = _sequence(source, at)
        options.append(node)
        if at >= len(source) or source[at] != "|":
            return (options[0] if len(options) == 1 else Either(tuple(options))), at
        at += 1


def _sequence(source: str, at: int) -> tuple[Node, int]:
    nodes: list[Node] = []
    while at < len(source) and source[at] not in "|)":
        node, at = _atom(source, at)
        node, at = _quantified(node, source, at)
        nodes.append(node)
    return (nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))), at


_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.S)
_GROUP = re.compile(r"\((?:\?:|\?i:|(?!\?))")
_COUNT = re.compile(r"\{(\d+)(?:,(\d+))?\}")


def _atom(source: str, at: int) -> tuple[Node, int]:
    char = source[at]
    if char == "[":
        found = _CLASS.match(source, at)
        if not found:
            raise ValueError(f"class without end at {at} in {source!r}")
        return Atom(found[0]), found.end()
    if char == "\\":
        if source[at + 1] in "bBAZG" or source[at + 1].isdigit():
            raise ValueError(f"{source[at : at + 2]!r} is not allowed in a guard pattern: {source!r}")
        return Atom(source[at : at + 2]), at + 2
    if char == "(":
        found = _GROUP.match(source, at)
        if not found:
            raise ValueError(f"{source[at : at + 4]!r} is not allowed in a guard pattern: {source!r}")
        node, at = _either(source, found.end())
        if at >= len(source):
            raise ValueError(f"group without end in {source!r}")
        return (Folded(node) if found[0] == "(?i:" else node), at + 1
    if char in "^$*+?{":
        raise ValueError(f"{char!r} at {at} is not allowed in a guard pattern: {source!r}")
    return Atom(char), at + 1


def _quantified(node: Node, source: str, at: int) -> tuple[Node, int]:
    if at < len(source) and source[at] == "?":
        low, high, at = 0, 1, at + 1
    elif at < len(source) and (found := _COUNT.match(source, at)):
        low, high, at = int(found[1]), int(found[2] or found[1]), found.end()
    elif at < len(source) and source[at] in "*+{":
        raise ValueError(f"unbounded quantifier at {at} in {source!r}: give {{m,n}}")
    else:
        return node, at
    if at < len(source) and source[at] in "?+*{":
        raise ValueError(f"lazy, possessive or double quantifier at {at} in {source!r}")
    return Repeat(node, low, high), at
