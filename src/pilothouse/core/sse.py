"""Which server-sent events do these bytes hold? Incremental; the same events for every way of cutting the stream.

Follows the WHATWG specification (HTML §9.2.6): lines end in LF, CR LF or CR; `data` lines of one event join with LF;
comments and unknown fields are passed over; an event that no blank line ends is not an event. Works on bytes, so a
character split between two reads stays whole.
"""

from __future__ import annotations

from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its type ('message' unless the stream names another) and its data."""

    type: str
    data: bytes


class SseParser:
    """Feed bytes as they come; each call returns the events that these bytes completed."""

    __slots__ = ("_after_cr", "_data", "_first", "_parts", "_type")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the unfinished line
        self._data: list[bytes] = []
        self._type = ""
        self._after_cr = False
        self._first = True

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Events that end within `data`."""
        if not data:
            return []
        if b"\r" in data or self._after_cr:
            if self._after_cr and data.startswith(b"\n"):
                data = data[1:]  # second half of a CR LF whose CR already ended the line
                self._after_cr = False
                if not data:
                    return []
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._parts.append(data)
            return []
        lines = data.split(b"\n")
        if self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
        rest = lines.pop()
        self._parts = [rest] if rest else []
        if self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(_BOM)
        return [event for line in lines if (event := self._line(line)) is not None]

    @property
    def pending(self) -> bool:
        """Whether bytes came that belong to an event without its end."""
        return bool(self._parts or self._data)

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            data, kind = self._data, self._type
            self._data, self._type = [], ""
            return ServerEvent(kind or "message", b"\n".join(data)) if data else None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._type = value.decode("utf-8", "replace")
        return None
