"""The formulas of speed, by hand and against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.timing import Chunk, Event, Timing, count, weighted_quantile

# Worked by hand. Scheduled at 10.0, sent 10.5, three chunks of 1, 2 and 1 tokens at 11.0, 11.4, 11.5, closed at 11.75.
WORKED = Timing(10.0, 10.5, 11.75, (Event(11.0, 1), Event(11.4, 2), Event(11.5, 1)), open_loop=True)


def test_the_worked_example() -> None:
    assert WORKED.tokens == 4
    assert WORKED.dispatch_lag == pytest.approx(0.5)
    assert WORKED.ttft == pytest.approx(1.0)
    assert WORKED.tpot == pytest.approx(0.5 / 3)
    assert WORKED.gaps == pytest.approx((0.4, 0.1))
    assert [v for v, _ in WORKED.itl] == pytest.approx([0.2, 0.1])
    assert [k for _, k in WORKED.itl] == [2, 1]
    assert WORKED.stall == pytest.approx(0.4)
    assert WORKED.latency == pytest.approx(1.75)


def test_a_closed_loop_counts_the_first_token_from_the_send() -> None:
    closed = Timing(10.0, 10.5, 11.75, WORKED.events, open_loop=False)
    assert closed.ttft == pytest.approx(0.5)
    assert closed.latency == pytest.approx(1.75)


@pytest.mark.parametrize("events", [(), (Event(11.0, 1),), (Event(11.0, 5),)])
def test_figures_that_need_a_second_chunk_are_undefined_without_it(events: tuple[Event, ...]) -> None:
    timing = Timing(10.0, 10.0, 12.0, events)
    assert timing.tpot is None
    assert timing.stall is None
    assert timing.itl == ()
    assert (timing.ttft is None) == (not events)


_EVENTS = st.lists(st.tuples(st.floats(0.001, 2), st.integers(1, 5)), min_size=2, max_size=30)


@given(_EVENTS)
def test_tpot_is_the_weighted_mean_of_itl(steps: list[tuple[float, int]]) -> None:
    times = np.cumsum([gap for gap, _ in steps])
    events = tuple(Event(float(t), k) for t, (_, k) in zip(times, steps, strict=True))
    timing = Timing(0, 0, float(times[-1]), events)
    values, weights = zip(*timing.itl, strict=True)
    assert timing.tpot == pytest.approx(np.average(values, weights=weights))
    assert timing.stall == max(timing.gaps)
    assert sum(timing.gaps) == pytest.approx(times[-1] - times[0])


def chunks(*chars: int) -> list[Chunk]:
    return [Chunk(float(i), n) for i, n in enumerate(chars)]


@pytest.mark.parametrize(
    ("found", "usage", "stopped", "expected", "how"),
    [
        (chunks(4, 4), None, True, [1, 1], "chunks"),
        (chunks(4, 4), 2, False, [1, 1], "usage"),
        (chunks(4, 4), 3, True, [1, 1], "usage"),  # the unseen end token
        (chunks(4, 4), 3, False, [1.5, 1.5], "usage"),
        (chunks(2, 6), 8, True, [2, 6], "usage"),  # a guard joined chunks
        (chunks(1, 1, 2), 2, True, [0.5, 0.5, 1], "usage"),  # a proxy cut tokens up
        ([Chunk(0, 9, 2), Chunk(1, 3, 1)], 4, True, [2, 1], "logprobs"),
        ([Chunk(0, 9, 2), Chunk(1, 3, 1)], None, False, [2, 1], "logprobs"),
        ([Chunk(0, 1, 1), Chunk(1, 1, 1)], 6, False, [3, 3], "usage"),  # llama.cpp, two emoji of three tokens each
        ([Chunk(0, 6, 2), Chunk(1, 3)], 3, False, [2, 1], "usage"),
        ([], 5, True, [], "usage"),
    ],
)
def test_tokens_of_chunks(
    found: list[Chunk], usage: int | None, stopped: bool, expected: list[float], how: str
) -> None:
    events, counting = count(found, usage, stopped=stopped)
    assert [e.k for e in events] == pytest.approx(expected)
    assert counting == how


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 6)), min_size=1, max_size=40), st.floats(0.01, 1))
def test_a_weighted_quantile_is_the_smallest_value_that_reaches_its_share(
    pairs: list[tuple[float, int]], q: float
) -> None:
    found = weighted_quantile([(v, float(w)) for v, w in pairs], q)
    assert found is not None
    total = sum(w for _, w in pairs)
    assert sum(w for v, w in pairs if v <= found) >= q * total - 1e-6
    assert sum(w for v, w in pairs if v < found) < q * total


def test_a_weighted_quantile_is_numpys_of_the_values_repeated() -> None:
    pairs = [(3.0, 2), (1.0, 5), (9.0, 1), (4.0, 3)]
    repeated = np.repeat([v for v, _ in pairs], [w for _, w in pairs])
    for q in (0.1, 0.33, 0.5, 0.64, 0.8, 0.95, 0.99):
        assert weighted_quantile([(v, float(w)) for v, w in pairs], q) == np.quantile(
            repeated, q, method="inverted_cdf"
        )


def test_a_weighted_quantile_without_weight_is_none() -> None:
    assert weighted_quantile([], 0.5) is None
    assert weighted_quantile([(1.0, 0.0)], 0.5) is None
