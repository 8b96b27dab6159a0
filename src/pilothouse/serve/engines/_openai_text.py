"""Text out of tokens, for engines that give tokens: whole characters, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_CUT = "�"


class Detokenizer:
    """Feed tokens as they come; each call returns the text that they complete.

    decode: tokens → text. A token's text can depend on the one before it (leading spaces) and a character can need
    several tokens, so a window is decoded twice: without and with what is new.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start, self._shown = 0, 0

    def feed(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """Text completed by these tokens; with `last` also what no token will complete."""
        self._tokens += tokens
        before = self._decode(self._tokens[self._start : self._shown])
        text = self._decode(self._tokens[self._start :])
        if len(text) <= len(before) or (text.endswith(_CUT) and not last):
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return text[len(before) :]


class StopStrings:
    """Hold back what may be the beginning of a stop string; `stopped` is set when one was found."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """What can be shown now."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        # The one that is whole first, as if the text had come letter by letter.
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            shown, self._held, self.stopped = self._held[: min(ends)[1]], "", True
            return shown
        keep = 0 if last else max(self._overlap(stop) for stop in self._stops)
        end = len(self._held) - keep
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def _overlap(self, stop: str) -> int:
        """How long an end of the held text is a beginning of the stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
