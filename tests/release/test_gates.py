"""Gates decide on the interval's bound; evidence that is missing never passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import UserError
from pilothouse.core.project.schema import Gate
from pilothouse.core.records import Measure, Report
from pilothouse.release import gates


def _report(value: float | None, low: float | None, high: float | None, n: int = 50) -> list[Report]:
    return [Report("s", "S", "", (Measure("s.x", value, "share", low, high, n, "Wilson"),))]


ABOVE = Gate(name="g", measure="s.x", above=0.5)  # type: ignore[call-arg]
BELOW = Gate(name="g", measure="s.x", below=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("gate", "low", "value", "high", "verdict"),
    [
        (ABOVE, 0.6, 0.7, 0.8, "pass"),
        (ABOVE, 0.4, 0.6, 0.8, "inconclusive"),
        (ABOVE, 0.1, 0.2, 0.5, "fail"),
        (BELOW, 0.1, 0.2, 0.4, "pass"),
        (BELOW, 0.4, 0.45, 0.6, "inconclusive"),
        (BELOW, 0.5, 0.7, 0.9, "fail"),
    ],
)
def test_the_interval_decides(gate: Gate, low: float, value: float, high: float, verdict: str) -> None:
    assert gates.judge(gate, _report(value, low, high)).verdict == verdict


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1))
def test_above_and_below_never_both_pass(value: float, down: float, up: float, bound: float) -> None:
    reports = _report(value, value - down, value + up)
    above = gates.judge(Gate(name="g", measure="s.x", above=bound), reports).verdict  # type: ignore[call-arg]
    below = gates.judge(Gate(name="g", measure="s.x", below=bound), reports).verdict  # type: ignore[call-arg]
    assert not (above == "pass" and below == "pass")
    assert (above == "pass") <= (below == "fail")


def test_missing_measure_value_or_interval_is_inconclusive() -> None:
    assert gates.judge(ABOVE, []).verdict == "inconclusive"
    assert gates.judge(ABOVE, _report(None, None, None)).verdict == "inconclusive"
    assert "interval" in gates.judge(ABOVE, _report(0.9, None, None)).reason


def test_an_open_end_is_infinite() -> None:
    assert gates.judge(BELOW, _report(0.2, 0.1, None)).verdict == "inconclusive"
    assert gates.judge(ABOVE, _report(0.9, 0.8, None)).verdict == "pass"


def test_inconclusive_says_how_many_samples_would_settle_it() -> None:
    result = gates.judge(ABOVE, _report(0.6, 0.4, 0.8, n=50))
    assert result.needed == 200 and "200" in result.reason  # half-width 0.2, distance 0.1: 50·(0.2/0.1)²


def test_a_value_gate_ignores_the_interval() -> None:
    gate = Gate(name="g", measure="s.x", above=0.5, on="value")  # type: ignore[call-arg]
    assert gates.judge(gate, _report(0.6, 0.1, 0.9)).verdict == "pass"


def test_the_verdict_holds_on_any_fail_and_waits_on_any_doubt() -> None:
    good, bad, doubt = (gates.judge(ABOVE, _report(v, v - 0.1, v + 0.1)) for v in (0.9, 0.1, 0.5))
    assert gates.verdict([good]) == "ship"
    assert gates.verdict([good, doubt]) == "inconclusive"
    assert gates.verdict([good, doubt, bad]) == "hold"
    assert gates.verdict([]) == "inconclusive"
    assert [gates.EXIT_CODE[v] for v in ("ship", "hold", "inconclusive")] == [0, 1, 3]


def test_two_gates_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two gates"):
        gates.check_names([ABOVE, BELOW], where="f")
