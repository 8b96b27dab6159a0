"""Text out of tokens: the same for every way of cutting it, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from pilothouse.serve.engines._openai_text import Detokenizer, StopStrings


def decode(tokens: Sequence[int]) -> str:
    """A token is a byte; bytes that are no character yet are a replacement character, as tokenizers have it."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(), st.lists(st.integers(1, 4)))
def test_characters_come_whole_however_their_bytes_come(text: str, cuts: list[int]) -> None:
    data, parts, detokenizer = text.encode(), list[str](), Detokenizer(decode)
    for n in [*cuts, len(data)]:
        parts.append(detokenizer.feed(list(data[:n])))
        data = data[n:]
        assert "�" not in parts[-1] or "�" in text
    parts.append(detokenizer.feed([], last=True))
    assert "".join(parts) == text


def test_what_no_token_completes_is_shown_at_the_end() -> None:
    detokenizer = Detokenizer(decode)
    assert detokenizer.feed(list("aé".encode()[:2])) == ""
    assert detokenizer.feed([], last=True) == "a�"


@example("abc", [2], ["abc", "b"])
@given(
    st.text("abc", max_size=30),
    st.lists(st.integers(0, 5), max_size=10),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    stop, shown, rest = StopStrings(stops), "", text
    for n in [*cuts, len(text)]:
        shown += stop.feed(rest[:n])
        rest = rest[n:]
        # nothing that has been shown is, or could become, part of a stop string that comes first
        assert not any(s in shown for s in stops)
    shown += stop.feed("", last=True)
    ends = [(at + len(s), at) for s in stops if (at := text.find(s)) >= 0]
    assert stop.stopped == bool(ends)
    assert shown == (text[: min(ends)[1]] if ends else text)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["END", ""])
    assert [stop.feed(part) for part in ("one E", "N", "X", "END", "more")] == ["one ", "", "ENX", "", ""]
    assert stop.stopped
