"""Which engine is chosen: the one that would be done first, by cache, session, adapter, weight, role and circuit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.serve.gateway import shared as sh
from pilothouse.serve.gateway.routing import circuit as circuit_module
from pilothouse.serve.gateway.routing.choose import Chooser
from pilothouse.serve.gateway.routing.fleet import Fleet, Member, Served
from pilothouse.serve.gateway.routing.prefix import BLOCK, Prefixes, blocks
from pilothouse.serve.gateway.shared import Shared


def member(name: str, **state: Any) -> Member:
    known: dict[str, Any] = {"ready": True, "group": "g", "models": {"m": Served(), "other": Served()}, **state}
    return Member(name, f"http://{name}:1", **known)


def fleet(*members: Member) -> tuple[Fleet, Chooser]:
    made = Fleet(Shared(), members)
    return made, Chooser(made)


def test_the_least_owing_engine_is_chosen_and_equal_ones_take_turns() -> None:
    f, c = fleet(member("a"), member("b"), member("c"))
    assert Counter(c.choose("m", b"", 10, "") for _ in range(30)) == {0: 10, 1: 10, 2: 10}
    f.begin(0, 500)
    f.begin(2, 100)
    assert {c.choose("m", b"", 10, "") for _ in range(10)} == {1}
    f.begin(1, 200)
    assert c.choose("m", b"", 10, "") == 2
    f.end(0, 500)
    assert c.choose("m", b"", 10, "") == 0


def test_a_known_beginning_draws_a_prompt_unless_its_engine_is_much_busier() -> None:
    f, c = fleet(member("a"), member("b"))
    prompt = b"You are the desk of an airline. " * 40
    home = c.choose("m", prompt + b"first", 400, "")
    assert {c.choose("m", prompt + str(n).encode() * 20, 400, "") for n in range(10)} == {home}
    f.begin(home, 5000)
    assert c.choose("m", prompt + b"more", 400, "") == 1 - home


def test_a_session_stays_where_it_is_unless_that_engine_is_much_busier() -> None:
    f, c = fleet(member("a"), member("b"), member("c"))
    homes = {s: c.choose("m", b"", 10, s) for s in (f"session-{n}" for n in range(40))}
    assert len(set(homes.values())) == 3
    assert all(c.choose("m", b"", 10, s) == home for s, home in homes.items())
    f.begin(homes["session-0"], 10_000)
    assert c.choose("m", b"", 10, "session-0") != homes["session-0"]


def test_an_engine_busy_with_another_adapter_is_avoided() -> None:
    f, c = fleet(member("a"), member("b"))
    first = c.choose("m", b"", 10, "")
    f.begin(first, 10)
    second = c.choose("other", b"", 10, "")
    f.begin(second, 10)
    assert second != first
    assert {c.choose("m", b"", 10, "") for _ in range(6)} == {first}
    assert {c.choose("other", b"", 10, "") for _ in range(6)} == {second}


def test_traffic_follows_the_weights_and_a_session_never_changes_its_release() -> None:
    _, c = fleet(member("old", group="old", weight=0.9), member("new", group="new", weight=0.1))
    drawn = Counter(c.choose("m", b"", 10, "") for _ in range(4000))
    assert 0.08 < drawn[1] / 4000 < 0.12  # 4 standard errors
    by_session = {s: c.choose("m", b"", 10, s) for s in (f"s{n}" for n in range(2000))}
    assert 0.07 < sum(by_session.values()) / 2000 < 0.13
    assert all(c.choose("m", b"", 10, s) == place for s, place in by_session.items())


def test_fallbacks_come_in_their_order_and_only_when_nobody_else_can() -> None:
    f, c = fleet(member("own"), member("spare", role="fallback"), member("last", role="fallback"))
    assert {c.choose("m", b"", 10, "") for _ in range(5)} == {0}
    assert c.choose("m", b"", 10, "", (0,)) == 1 and c.choose("m", b"", 10, "", (0, 1)) == 2
    f.update((member("own", ready=False), member("spare", role="fallback"), member("last", role="fallback")))
    assert c.choose("m", b"", 10, "") == 1
    assert c.choose("nobody", b"", 10, "") == -1


def test_a_shadow_is_never_chosen() -> None:
    f, c = fleet(member("own"), member("watch", role="shadow"))
    assert {c.choose("m", b"", 10, "") for _ in range(5)} == {0} and f.shadows("m") == [1]


def test_what_an_engine_says_of_itself_counts() -> None:
    f, c = fleet(member("a"), member("b"))
    f.shared.gauges.set(0, sh.G_WAITING, 5.0)
    assert {c.choose("m", b"", 10, "") for _ in range(5)} == {1}
    f.shared.gauges.set(0, sh.G_WAITING, 0.0)
    f.shared.gauges.set(1, sh.G_KV, 0.99)
    assert {c.choose("m", b"", 10, "") for _ in range(5)} == {0}


def test_a_circuit_opens_after_five_failures_tries_once_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(circuit_module, "monotonic", lambda: now)
    f, c = fleet(member("a"), member("b"))
    circuit = f.circuits[0]
    for _ in range(4):
        circuit.failed()
    assert not circuit.is_open()
    circuit.failed()
    assert circuit.is_open() and {c.choose("m", b"", 10, "") for _ in range(5)} == {1}
    now += 1.01
    assert not circuit.is_open()
    circuit.trying()
    assert circuit.is_open()  # one tries, the others wait to see how it fares
    circuit.failed()
    now += 1.5
    assert circuit.is_open()  # for longer each time
    now += 1.0
    circuit.trying()
    circuit.succeeded()
    assert not circuit.is_open() and {c.choose("m", b"", 10, "") for _ in range(6)} == {0, 1}


@given(st.binary(max_size=4 * BLOCK), st.binary(max_size=4 * BLOCK))
def test_equal_beginnings_and_only_those_have_equal_hashes(a: bytes, b: bytes) -> None:
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    ha, hb = blocks(a), blocks(b)
    same = common // BLOCK
    assert ha[:same] == hb[:same] and (len(ha) == len(a) // BLOCK)
    assert all(x != y for x, y in zip(ha[same:], hb[same:], strict=False))


def test_the_table_of_beginnings_never_grows() -> None:
    prefixes, size = Prefixes(Shared()), sh.PREFIXES
    for n in range(3 * size // 8):
        prefixes.note([n * 8 + k for k in range(8)], n % 50)
    newest = [(3 * size // 8 - 1) * 8 + k for k in range(8)]
    assert prefixes.share(newest, (3 * size // 8 - 1) % 50) == 1.0
    assert prefixes.share([0, 1, 2], 0) == 0.0  # overwritten by newer ones
