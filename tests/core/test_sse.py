"""Server-sent events: the same events for every way of cutting the bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.sse import ServerEvent, SseParser

_LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
_STREAM = st.lists(
    st.tuples(
        st.sampled_from(["data: ", "data:", "event: ", ": ", "id: ", "retry: ", "", "dat"]),
        _LINE,
        st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\r\r"]),
    ),
    max_size=20,
)


def parse(pieces: list[bytes]) -> list[ServerEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def reference(data: bytes) -> list[ServerEvent]:
    """The specification read literally, on the whole stream at once."""
    text = data.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found, values, kind = [], [], ""
    for line in text.split("\n")[:-1]:
        if line == "":
            if values:
                found.append(ServerEvent(kind or "message", "\n".join(values).encode("utf-8", "surrogateescape")))
            values, kind = [], ""
            continue
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            values.append(value)
        elif name == "event":
            kind = value
    return found


@given(_STREAM, st.data())
def test_any_cutting_gives_the_events_of_the_specification(
    parts: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    whole = "".join(a + b + c for a, b, c in parts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parse(pieces) == reference(whole)
    assert parse([whole[i : i + 1] for i in range(len(whole))]) == reference(whole)


def test_a_character_cut_in_two_stays_whole() -> None:
    whole = "data: déjà 🛫\n\n".encode()
    for i in range(len(whole)):
        assert [e.data.decode() for e in parse([whole[:i], whole[i:]])] == ["déjà 🛫"]


def test_an_event_without_its_blank_line_is_none_and_shows_as_pending() -> None:
    parser = SseParser()
    assert parser.feed(b"data: half\n") == []
    assert parser.pending
    assert parser.feed(b"\n") == [ServerEvent("message", b"half")]
    assert not parser.pending


def test_one_space_after_the_colon_is_not_data_a_second_is() -> None:
    assert [e.data for e in parse([b"data:a\n\ndata: b\n\ndata:  c\n\n"])] == [b"a", b"b", b" c"]
