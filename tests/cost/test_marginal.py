"""Free misses and chords against the slot times of every number of misses."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvbound.cost.marginal import breakpoints, chords, free_misses
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.rules import Copies
from tests.strategies import layered_instances, tiny_instances

TWO_TIERS: dict[str, Any] = {"tiers": 2, "copies": Copies.INCLUSIVE, "granularity": 1}
two_tiers = tiny_instances(**TWO_TIERS) | layered_instances(**TWO_TIERS)


@given(two_tiers, st.integers(0, 3), st.sampled_from([0.0, 0.3]))
def test_free_misses_are_all_misses_that_do_not_lengthen_the_slot(
    instance: Instance, writes: int, cheap: float
) -> None:
    cost, reads = SlotCost.of(instance), instance.trace.past_counts()
    found = free_misses(instance, np.full(reads.shape, float(writes)), cheap)
    for step, layer in np.ndindex(reads.shape):
        count, size = int(reads[step, layer]), int(instance.item_bytes[layer])
        weights = float(instance.llm.weight_reads[layer])
        born = size * int(instance.timeline.births[step])
        rows = [[(count - m) * size, m * size, weights, 0, writes * size, born] for m in range(count + 1)]
        times = cost.times(np.array(rows, float))
        dearest = times[-1] - times[max(count - 1, 0)]
        free = times <= times[0] * (1 + 1e-12) + cheap * dearest
        assert found[step, layer] == np.flatnonzero(free).max()


@given(two_tiers)
@settings(max_examples=40, deadline=None)
def test_one_more_than_the_free_misses_takes_longer(instance: Instance) -> None:
    reads, cost, size = instance.trace.past_counts(), SlotCost.of(instance), instance.item_bytes
    free = free_misses(instance, np.zeros(reads.shape))
    traffic = np.zeros((*reads.shape, 6))
    traffic[..., 2], traffic[..., 5] = instance.llm.weight_reads, size * instance.timeline.births[:, None]

    def times(misses: NDArray[np.int64]) -> NDArray[np.float64]:
        traffic[..., 0], traffic[..., 1] = (reads - misses) * size, misses * size
        return cost.times(traffic)

    assert np.all(times(free) <= times(np.zeros_like(reads)) * (1 + 1e-9))
    more = free < reads
    assert np.all(times(np.minimum(free + 1, reads))[more] > times(np.zeros_like(reads))[more])


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=5),
    st.integers(0, 12),
)
def test_the_breakpoint_is_the_largest_number_of_free_misses(
    facets: list[tuple[int, int]], reads: int
) -> None:
    constant, slope = np.array(facets, float).T
    found = breakpoints(constant[:, None, None], slope[:, None, None], np.array([[reads]]))
    times = (constant + slope * np.arange(reads + 1)[:, None]).max(axis=1)
    assert found[0, 0] == np.flatnonzero(times <= times[0] + 1e-6).max()


@given(st.lists(st.tuples(st.floats(1, 50), st.floats(0, 20)), min_size=1, max_size=4), st.integers(0, 12))
def test_chords_are_below_the_time_at_integers_and_above_it_between_where_its_slope_changes(
    facets: list[tuple[float, float]], reads: int
) -> None:
    constant, slope = np.array(facets).T

    def times(
        misses: np.ndarray[tuple[int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray((constant + slope * misses[:, None]).max(axis=1))

    integers = np.arange(reads + 1.0)
    found = chords(times, reads)
    for rate, start in found:
        assert np.all(rate * integers + start <= times(integers) * (1 + 1e-9))
    between = integers[:-1] + 0.5
    bends = times(integers[:-1]) + times(integers[1:]) > 2 * times(between) * (1 + 1e-8)
    for misses in between[bends]:
        assert max(rate * misses + start for rate, start in found) > times(np.array([misses]))[0]


def test_a_breakpoint_at_an_integer_counts() -> None:
    constant, slope = np.array([5.0, 2.0, 0.7])[:, None, None], np.array([0.0, 1.0, 4.3 / 3])[:, None, None]
    assert breakpoints(constant, slope, np.array([[12]]))[0, 0] == 3
    assert breakpoints(constant, slope, np.array([[2]]))[0, 0] == 2


def test_misses_of_smaller_items_are_free_for_longer() -> None:
    """Layers of items of one, two and no bytes, which have no misses."""
    constant, slope = np.array([6.0, 0.0])[:, None, None], np.outer([0.0, 2.0], [1, 2, 0])[:, None]
    assert breakpoints(constant, slope, np.array([[9, 9, 0]])).tolist() == [[3, 1, 0]]


def test_misses_on_a_line_have_no_chords() -> None:
    assert chords(lambda misses: 0.1 + 0.3 * misses, 40) == []


def test_a_bend_between_two_integers_has_one_chord() -> None:
    [(rate, start)] = chords(lambda misses: np.maximum(1.0, 0.5 + misses), 3)
    assert (rate, start) == (0.5, 1.0)


def test_a_bend_at_the_last_miss_has_a_chord() -> None:
    [(rate, start)] = chords(lambda misses: np.maximum(1.0, misses - 1.5), 3)
    assert (rate, start) == (0.5, 0.0)
