"""Sizes and ends that differ by layer, on instances whose numbers are calculated by hand."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.checker.layered import Layered, Reads

TWO: Reads = [[[], []]]
"""A step of two layers that read nothing."""
STILL = {"births": [0]}
"""No birth in the only step."""
Events = list[tuple[int, int, int, int]]


def born(case: Layered, tier: int = 1) -> Events:
    """Events of all births, into one tier."""
    return [
        (step, layer, token, tier)
        for token, step in enumerate(case.born)
        for layer in range(case.layers)
        if step >= 0
    ]


def problems(case: Layered, initial: Any, events: Events | None = None) -> tuple[str, ...]:
    return case.checked(case.schedule(initial, born(case) if events is None else events)).problems


def with_capacity(case: Layered, first: int | None, last: int | None = None) -> Layered:
    return dataclasses.replace(case, capacity=(first, last))


# Sizes


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("sizes", "capacity"), [([2, 3], 5), ([4, 6], 11), ([2, 4], 7), ([3, 0], 5)])
def test_a_tier_holds_any_combination_of_items_whose_bytes_fit(
    sizes: list[int], capacity: int, size: int
) -> None:
    """Blocks of one or two tokens, beside 5 bytes of weights."""
    rules = {"granularity": size}
    case = Layered(TWO, 2 * size, sizes, trace=STILL, rules=rules, weights=5)
    case = with_capacity(case, capacity * size + 5)
    accepted = 0
    for tiers in product((0, 1), repeat=4):
        filled = sum(size * sizes[k // 2] for k, tier in enumerate(tiers) if tier == 0)
        found = problems(case, np.repeat(np.reshape(tiers, (2, 2)), size, axis=1))
        if filled <= capacity * size:
            assert found == ()
            accepted += 1
        else:
            over = filled - capacity * size
            assert found[0].startswith(
                f"at the start: tier t0 holds {filled + 5} bytes, {over} over its capacity"
            )
    assert 0 < accepted < 16


def test_every_transfer_has_the_size_of_its_layer() -> None:
    """Serial time at 4 B/s and 1 B/s; items have 2 bytes in layer 0, and 3 or 6 in layer 1."""
    formats = {"t1": {"bytes": [2, 6]}}
    case = Layered([[[0], [1]], [[], []]], 2, [2, 3], formats=formats)
    arrays = case.schedule([[0, 1], [1, 0]], [*born(case), (1, 0, 0, 1), (0, 1, 0, 0)])
    report = case.checked(arrays)
    assert report.problems == ()
    assert report.step_times_s is not None
    # reads and births, and a token that moves without being read: in layer 1 up, in layer 0 down
    assert report.step_times_s.tolist() == [2 / 4 + 2 + 3 / 4 + (6 + 3 / 4) + 6, (2 / 4 + 2) + 2 + 6]
    assert report.hit_bytes is not None
    assert report.hit_bytes.tolist() == [2 + 3, 0]
    assert report.moved_bytes == {"up": 3, "down": 2}
    assert report.peak_bytes == (2 + 2 * 3, 4 * 2 + 2 * 6)


def test_a_split_depends_on_the_ratio_of_the_layers_sizes() -> None:
    """One item of 4 bytes in tier 0: its copy has 2 bytes in layer 0 and 4 in layer 1."""
    case = Layered(
        [[[0], [0]]], 1, 4, formats={"t1": {"bytes": [2, 4]}}, trace=STILL,
        rules={"copies": "inclusive", "timing": "parallel"},
    )  # fmt: skip
    report = case.checked(case.schedule([[0], [0]]))
    assert report.problems == ()
    # (4 - u) / 4 = u / 2 at u = 4 / 3, and (4 - u) / 4 = u at u = 4 / 5
    assert report.time_s == pytest.approx(2 / 3 + 4 / 5)
    assert report.busy is not None  # of the resources down0, up0, down1, up1
    assert report.busy.tolist() == pytest.approx([1, 0, 1, 0])


def test_a_layer_without_kv_costs_nothing_and_takes_no_room() -> None:
    case = Layered([[[0], [1]], [[1], []]], 1, [2, 0], capacity=(2, None), latency=8.0)
    initial, events = [[0], [0]], [*born(case), (1, 1, 0, 1), (1, 1, 1, 0)]
    report = case.checked(case.schedule(initial, sorted(events)))
    assert report.problems == ()
    # layer 0 reads 2 bytes, first of tier 0, and writes 2 bytes to tier 1; layer 1 reads its own token
    assert report.time_s == (2 / 4 + 8 + 2) + (2 + 2 + 8)
    assert report.peak_bytes == (2, 4)
    assert report.moved_bytes == {"up": 0, "down": 0}
    weights = dataclasses.replace(case, weight_reads=4.0)
    assert weights.checked(case.schedule(initial, events)).time_s == report.time_s + 4 * 1 + 3 * 8


def test_prefill_first_lets_a_smaller_item_pass_a_larger_one() -> None:
    """5 bytes take 3 and 1 of token 0, then only the 1 of token 1; a layer without KV is in tier 0."""
    case = Layered([[[], [], []]], 3, [3, 1, 0], trace=STILL, rules={"initial": "prefill-first"})
    case = with_capacity(case, 5)
    assert problems(case, [[0, 1, 1], [0, 0, 1], [0, 0, 0]]) == ()
    assert problems(case, [[0, 1, 1], [0, 1, 1], [0, 0, 0]]) == (
        "layer 1: prefill-first puts prompt token 1 into t0, the schedule into t1",
    )
    assert problems(case, [[0, 1, 1], [0, 0, 1], [0, 0, 1]]) == (
        "layer 2: prefill-first puts prompt token 2 into t0, the schedule into t1",
    )


def test_room_is_counted_in_integers_of_any_size() -> None:
    large = 2**60
    case = with_capacity(Layered(TWO, 20, [1, large], trace=STILL), 10 * large + 1)
    tiers = np.ones((2, 20), int)
    tiers[1, :10] = tiers[0, 0] = 0
    arrays = case.schedule(tiers)
    assert case.checked(arrays).peak_bytes == (10 * large + 1, 10 * large + 19)
    tiers[0, 1] = 0
    assert problems(case, tiers)[0].startswith(
        f"at the start: tier t0 holds {10 * large + 2} bytes, 1 over its capacity"
    )
    filled = dataclasses.replace(case, rules={"initial": "prefill-first"})
    assert problems(filled, [[0] * 20, [0] * 9 + [1] * 11]) == ()  # token 9 of layer 1 would be too much


# Windows


def test_a_window_makes_room_for_births() -> None:
    """With a window of two, a token leaves in the step in which the next one is born."""
    case = Layered([[[0], []], [[1], [0]], [[2], [0, 1]]], 1, windows=[2, None], capacity=(1, None))
    into_first = [(step, layer, token, layer) for step, layer, token, _ in born(case)]
    report = case.checked(case.schedule([[0], [1]], into_first))
    assert report.problems == ()
    assert report.peak_bytes == (1, 4)
    other = dataclasses.replace(case, windows=[3, None], reads=[[[], []]] * 3)
    assert problems(other, [[0], [1]], into_first)[0].startswith(
        "after slot 0 (step 0, layer 0): tier t0 holds 2 bytes, 1 over its capacity"
    )


def test_a_prompt_beyond_its_window_does_not_exist() -> None:
    """Of four tokens, a window of two keeps the last until token 4 is born."""
    case = Layered([[[3], [0]], [[4], [0]]], 4, windows=[2, None], capacity=(1, 7))
    for first in ([1, 1, 1, 0], [0, 0, 0, 0], [255, 7, 1, 0], [1, 1, 1, 1]):
        assert problems(case, [first, [1] * 4]) == ()
    assert problems(with_capacity(case, 1, 6), [[0] * 4, [1] * 4]) == (
        "after slot 3 (step 1, layer 1): tier t1 holds 7 bytes, 1 over its capacity",
    )
    for event, step, token in ((0, 0, 2), (0, 0, 3), (2, 1, 4)):
        moved = [*born(case), (step, 0, token, 0)]
        expected = f"event {event}: the item is moved in its last step, or after it"
        assert problems(case, [[0] * 4, [1] * 4], moved) == (expected,)
    filled = dataclasses.replace(case, rules={"initial": "prefill-first"}, capacity=(2, None))
    assert problems(filled, [[1, 1, 1, 1], [0, 0, 1, 1]]) == ()


def test_positions_are_those_of_the_tokens_own_sequence() -> None:
    """Tokens 0 and 1 begin two sequences, which take turns."""
    trace = {"births": [1, 1, 1], "sequence": [0, 1, 0, 1, 1]}
    reads = [[[0, 1]], [[1, 2]], [[2, 3]]]
    assert problems(Layered(reads, 2, windows=[2], trace=trace), [[0, 0]]) == ()
    alone = Layered(reads, 2, windows=[2], trace={"births": [1, 1, 1]})
    assert problems(alone, [[0, 0]]) == (
        "slot 0 (step 0, layer 0): the trace reads a token that has ended (and 2 more like it)",
    )
    ended = Layered(reads, 2, windows=[2], trace=trace | {"ends": [None, 0, None, None, None]})
    assert problems(ended, [[0, 0]]) == ("slot 1 (step 1, layer 0): the trace reads a token that has ended",)


@pytest.mark.parametrize("schema", ["schedule", "residency", "certificate"])
def test_a_read_of_what_a_layer_does_not_hold_is_refused(schema: str) -> None:
    file = {"schema": np.array(f"kvbound.{schema}/1")}
    reads: Reads = [
        [[0], [2]],
        [[1], [0]],
        [[2], []],
    ]  # in layer 1 of a token that is born, then of the prompt
    window, none = Layered(reads, 2, windows=[None, 2]), Layered(reads, 2, [1, 0])
    where = "slot 3 (step 1, layer 1): the trace reads a token"
    assert window.checked(file).problems == (f"{where} that has ended",)
    assert none.checked(file).problems == (f"{where}, but the layer keeps no KV",)


# Certificates


@pytest.mark.parametrize(
    ("windows", "capacity", "expected"),
    [
        (None, 8, 111 + 2 * 111 - 3 * 111),
        (None, 9, 111 + 2 * 111 - 3 * 111),
        (None, 10, 111 + 2 * 111 - 4 * 111),
        ([None, 1], 8, 111 - 3 * 111),  # the prompt is not in layer 1 at all
        ([None, 2], 8, 111 + 2 * (1 + 10) - 3 * 111),  # it leaves after slot 1
        ([2, None], 8, 1 + 2 * 111 - 3 * 111),
    ],
)
def test_prices_of_capacity_are_per_unit(windows: Any, capacity: int, expected: int) -> None:
    """Layer 0 takes one unit of 2 bytes, layer 1 two; the prices at the three times are 1, 10 and 100."""
    rules = {"initial": "prefill-first", "migration": "none"}
    case = Layered(TWO, 1, [2, 4], windows, rules=rules, weights=2, capacity=(capacity, None))
    prices = np.array([[1, 10, 100], [0, 0, 0]])
    report = case.checked(case.certificate(capacity=prices))
    assert report.problems == ()
    assert report.bound_s == expected


def test_a_prompt_that_does_not_exist_pays_for_no_tier() -> None:
    """With prices of 1, 10 and 100 in both tiers, which have room for 3 and 5 units."""
    case = Layered(TWO, 1, [2, 4], [None, 1], rules={"migration": "none"}, capacity=(6, 10), trace=STILL)
    report = case.checked(case.certificate(capacity=np.array([[1, 10, 100]] * 2)))
    assert report.bound_s == 111 - (3 + 5) * 111


def test_moves_of_a_layer_without_kv_have_no_latency() -> None:
    """A slot is paid 3 s for moving an item, which takes no time, or 8 s of latency in a layer with KV."""
    for sizes, expected in (([1, 0], -3), ([1, 2], 0)):
        case = Layered(TWO, 1, sizes, latency=8.0, trace=STILL)
        prices = np.zeros((6, 1, 2), np.int64)
        prices[3, 0, 1] = 3
        arrays = case.certificate(prices=prices, whole=np.zeros((1, 2), np.int64))
        assert case.checked(arrays).bound_s == expected


def test_weights_and_births_cost_what_their_layer_transfers() -> None:
    """Serial time in which each resource weighs 1: 3 bytes of weights at 4 B/s, births at most at 4 B/s."""
    full = np.full((8, 4, 1, 3), 1 << 40)
    case = Layered([[[0], [0], []]], 1, [2, 3, 0], weight_reads=3.0, latency=1.0)
    report = case.checked(case.certificate(theta=full, scale=np.int64(30)))
    assert report.bound_s == 3 * (3 / 4 + 1) + 2 * (2 + 3) / 4
    copies = dataclasses.replace(case, rules={"copies": "inclusive"})  # a birth is written to the last tier
    report = copies.checked(copies.certificate(theta=full, scale=np.int64(30)))
    assert report.bound_s == 3 * (3 / 4 + 1) + (2 + 3) / 4 + (2 + 3)


def test_prices_of_several_units_must_not_overflow() -> None:
    prices = np.zeros((2, 3), np.int64)
    prices[0, 0] = 2**61
    for sizes, fine in (([1, 1], True), ([2, 4], False), ([4, 8], False), ([0, 3], True)):
        case = Layered(TWO, 1, 1 if sizes == [1, 1] else sizes, capacity=(8, None))
        found = case.checked(case.certificate(capacity=prices)).problems
        malformed = ("the certificate is malformed: expected numbers of a path below 2**62",)
        assert found == (() if fine else malformed)
