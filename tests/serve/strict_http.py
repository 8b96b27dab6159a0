"""How many requests does a strict reader of RFC 9112 see in these bytes, and which answers did a server give?

The reader is written for its strictness alone and shares nothing with the gateway's parser: where it sees fewer
requests than the gateway answers, one could be smuggled past whoever stands in front.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE = re.compile(rb"(" + _TOKEN + rb") +([\x21-\xff]+) +HTTP/(1\.[01])\r\n")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*\r\n")
_SIZE = re.compile(rb"(0*[0-9A-Fa-f]{1,16})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")


class Unfinished(Exception):
    """The bytes end before the request does."""


class Wrong(Exception):
    """No strict reader takes this."""


def requests(data: bytes) -> tuple[list[bytes], bool]:
    """Methods of the whole requests in order, and whether what follows them is wrong or unfinished."""
    methods, at = list[bytes](), 0
    while True:
        while data[at : at + 1] in (b"\r", b"\n"):  # empty lines before a request, however they end, say nothing (§2.2)
            at += 1
        if at >= len(data):
            return methods, False
        try:
            method, at, close = _request(data, at)
        except (Wrong, Unfinished):
            return methods, True
        methods.append(method)
        if close or method == b"CONNECT":
            return methods, at < len(data)


def _request(data: bytes, at: int) -> tuple[bytes, int, bool]:
    line = _match(_LINE, data, at)
    fields, at = _fields(data, line.end())
    named = [name for name, _ in fields]
    version, coding = line[3], [v.lower() for n, v in fields if n == b"transfer-encoding"]
    lengths = [v for n, v in fields if n == b"content-length"]
    if named.count(b"host") > 1 or (version == b"1.1" and b"host" not in named):
        raise Wrong
    if coding:
        if coding != [b"chunked"] or lengths or version == b"1.0":
            raise Wrong
        at = _chunks(data, at)
    elif lengths:
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise Wrong
        at += int(lengths[0])
        if at > len(data):
            raise Unfinished
    wishes = b",".join(v.lower() for n, v in fields if n == b"connection")
    close = b"close" in wishes or (version == b"1.0" and b"keep-alive" not in wishes)
    return line[1], at, close


def _match(pattern: re.Pattern[bytes], data: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(data, at)
    if found is None:
        raise Unfinished if b"\n" not in data[at:] else Wrong
    return found


def _fields(data: bytes, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
    fields = []
    while data[at : at + 2] != b"\r\n":
        found = _match(_FIELD, data, at)
        fields.append((found[1].lower(), found[2]))
        at = found.end()
    return fields, at + 2


def _chunks(data: bytes, at: int) -> int:
    while True:
        found = _match(_SIZE, data, at)
        at, size = found.end(), int(found[1], 16)
        if size == 0:
            return _fields(data, at)[1]
        at += size
        if at + 2 > len(data):
            raise Unfinished
        if data[at : at + 2] != b"\r\n":
            raise Wrong
        at += 2


@dataclass(frozen=True)
class Answer:
    """One answer of a server. closes: it says that it is the last."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection") == b"close"


def answers(data: bytes, methods: list[bytes]) -> list[Answer]:
    """Every final answer in these bytes; AssertionError where they are no well-formed HTTP."""
    found, at = list[Answer](), 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        assert end > 0, data[at : at + 200]
        first, *lines = data[at:end].split(b"\r\n")
        assert re.fullmatch(rb"HTTP/1\.1 [1-5]\d\d [ -~]+", first), first
        assert all(re.fullmatch(_TOKEN + rb": [^\r\n\x00]*", line) for line in lines), lines
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        assert len(headers) == len(lines), lines
        at, status = end + 4, int(first.split()[1])
        if status < 200:
            continue
        head = len(found) < len(methods) and methods[len(found)] == b"HEAD"
        if head and (at == len(data) or data.startswith(b"HTTP/1.1 ", at)):
            body = b""
        elif headers.get(b"transfer-encoding") == b"chunked":
            after = _chunks(data, at)
            body, at = data[at:after], after
        elif b"content-length" in headers:
            n = int(headers[b"content-length"])
            assert len(data) >= at + n, "an answer broke off"
            body, at = data[at : at + n], at + n
        else:
            body, at = data[at:], len(data)
        found.append(Answer(status, headers, body))
    return found
