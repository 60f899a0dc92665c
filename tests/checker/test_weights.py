"""Weights that may be placed: on instances whose numbers are calculated by hand, and malformed ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.checker.layered import Layered, Reads
from tests.checker.test_layers import STILL, TWO, born, with_capacity

PLACEABLE = {"weights": "placeable"}

# Two layers with tokens of 2 and 3 bytes. Layer 0 reads 7.5 bytes of weights: a chunk as large as two tokens,
# one as large as one, and 1.5 bytes that stay in tier 0. Layer 1 reads one chunk, as large as a token. Of all
# 12 bytes of weights, 3 stay in tier 0.
READS: Reads = [[[0], [1]], [[], [2]]]
PAIR = Layered(
    READS, 2, [2, 3], weights=12, weight_reads=[7.5, 3.0], placement=PLACEABLE | {"weight_chunk_bytes": 5}
)
T = 64
"""The id of token 0."""


def start(case: Layered, tiers: Any, chunks: list[list[int]]) -> Any:
    """Initial tiers of ids: those of tokens after those of chunks; what does not exist is anywhere."""
    initial = np.full((case.layers, case.first + case.prefill), 7)
    initial[:, case.first :] = tiers
    for row, each in zip(initial, chunks, strict=True):
        row[: len(each)] = each
    return initial


def births(case: Layered, tier: int = 1) -> list[tuple[int, int, int, int]]:
    return [(step, layer, case.first + token, tier) for step, layer, token, _ in born(case)]


def test_chunks_are_read_in_every_slot_and_move_like_kv() -> None:
    """Serial time at 4 B/s and 1 B/s: chunk 0 of layer 0 goes down in step 0, chunk 0 of layer 1 up."""
    initial = start(PAIR, [[0, 1], [1, 1]], [[0, 1], [1]])
    moves = [(0, 0, 0, 1), (0, 1, 0, 0)]
    report = PAIR.checked(PAIR.schedule(initial, [*births(PAIR), *moves]))
    assert report.problems == ()
    assert report.step_times_s is not None
    # weights that stay, chunks, past tokens, moves, births
    layer_0 = 1.5 / 4 + (4 / 4 + 2) + 2 / 4 + 4 + 2
    layer_1 = 0 + 3 + 3 + 3 / 4 + 3
    assert report.step_times_s.tolist() == [layer_0 + layer_1, 1.5 / 4 + (4 + 2) + 2 + 3 / 4 + 3 + 3]
    assert report.hit_bytes is not None
    assert report.hit_bytes.tolist() == [4 + 2 + 3, 2 + 3 + 3 + 4 + 2 + 3]
    assert report.moved_bytes == {"up": 3, "down": 4}
    assert report.peak_bytes == (3 + 4 + 2, (2 + 2 + 3 + 3 + 3) + 4 - 3 + 2 * (2 + 3))
    assert report.busy is not None
    assert report.busy.tolist() == pytest.approx([n / report.time_s for n in (3, 0.75, 17, 14)])  # type: ignore[operator]


def test_a_tier_has_room_for_chunks_beside_what_stays() -> None:
    """Chunks of 4, 2 and 3 bytes, and tokens of 2 and 3 bytes, beside 3 bytes."""
    case = dataclasses.replace(PAIR, trace=STILL, reads=READS[:1])
    for capacity, chunks, tiers, wanted in (
        (12, [[0, 0], [0]], [[1, 1], [1, 1]], 12),
        (11, [[0, 0], [0]], [[1, 1], [1, 1]], 12),
        (12, [[0, 1], [0]], [[1, 0], [1, 1]], 12),
        (11, [[0, 1], [0]], [[1, 0], [1, 1]], 12),
        (2, [[1, 1], [1]], [[1, 1], [1, 1]], 3),
    ):
        sized = with_capacity(case, capacity)
        found = sized.checked(sized.schedule(start(case, tiers, chunks)))
        assert found.peak_bytes is not None
        assert found.peak_bytes[0] == wanted
        assert len(found.problems) == (wanted > capacity)
        over = f"at the start: tier t0 holds {wanted} bytes, {wanted - capacity} over its capacity"
        assert all(problem.startswith(over) for problem in found.problems)


def test_a_move_in_a_full_tier_needs_room_for_the_whole_chunk() -> None:
    """In tier 0, beside 3 bytes: chunk 0 of layer 0, 4 bytes, comes up after slot 0."""
    initial = start(PAIR, [[1, 1], [1, 1]], [[1, 1], [1]])
    events = [*births(PAIR), (0, 0, 0, 0)]
    assert with_capacity(PAIR, 7).checked(PAIR.schedule(initial, events)).problems[1:] == ()
    sized = with_capacity(PAIR, 6)
    assert sized.checked(sized.schedule(initial, events)).problems == (
        "after slot 0 (step 0, layer 0): tier t0 holds 7 bytes, 1 over its capacity (and 3 more like it)",
    )


def test_the_last_tier_has_copies_of_chunks_too() -> None:
    """A move up is written; chunks may be read from both copies, and going down is free."""
    rules = {"copies": "inclusive", "timing": "parallel"}
    case = Layered([[[]], [[]]], 0, 2, rules=rules, trace={"births": [0, 0]}, weights=10, weight_reads=10.0,
                   placement=PLACEABLE, capacity=(10, 10))  # fmt: skip
    up = case.checked(case.schedule(start(case, [[]], [[1]]), [(0, 0, 0, 0)]))
    assert up.problems == ()
    assert up.step_times_s is not None
    assert up.step_times_s.tolist() == pytest.approx([10, 10 / 5])  # of 10 bytes, tier 0 serves 4 / 5
    assert up.moved_bytes == {"up": 10, "down": 0}
    assert up.peak_bytes == (10, 10)
    down = case.checked(case.schedule(start(case, [[]], [[0]]), [(0, 0, 0, 1)]))
    assert down.step_times_s is not None
    assert down.step_times_s.tolist() == pytest.approx([10 / 5, 10])
    assert down.moved_bytes == {"up": 0, "down": 0}
    less = with_capacity(case, 10, 9)
    (problem,) = less.checked(less.schedule(start(case, [[]], [[1]]))).problems
    assert problem.startswith("at the start: tier t1 holds 10 bytes, 1 over its capacity")


def test_prefill_first_fills_chunks_before_tokens() -> None:
    """Chunks of 4, 2 and 3 bytes, beside 3 bytes: what does not fit is passed by what is smaller."""
    case = dataclasses.replace(PAIR, trace=STILL, reads=READS[:1], rules={"initial": "prefill-first"})
    for capacity, chunks, tiers in (
        (3 + 9 + 2, [[0, 0], [0]], [[0, 1], [1, 1]]),
        (3 + 9, [[0, 0], [0]], [[1, 1], [1, 1]]),
        (3 + 8, [[0, 1], [0]], [[1, 1], [1, 1]]),
        (3 + 6, [[0, 0], [1]], [[1, 1], [1, 1]]),
        (3 + 3, [[1, 1], [0]], [[1, 1], [1, 1]]),
        (3 + 2, [[1, 0], [1]], [[1, 1], [1, 1]]),
        (3, [[1, 1], [1]], [[1, 1], [1, 1]]),
    ):
        sized, initial = with_capacity(case, capacity), start(case, tiers, chunks)
        assert sized.checked(sized.schedule(initial)).problems == ()
        right, wrong = initial[0, 1], 1 - initial[0, 1]
        initial[0, 1], initial[1, T + 1] = wrong, 0
        assert (
            sized.checked(sized.schedule(initial))
            .problems[0]
            .startswith(
                f"layer 0: prefill-first puts chunk 1 into t{right}, the schedule into t{wrong} (and 1 more"
            )
        )
        initial[0, 1] = right
        assert sized.checked(sized.schedule(initial)).problems[0] == (
            "layer 1: prefill-first puts prompt token 1 into t1, the schedule into t0"
        )


# Malformed schedules

VALID = PAIR.schedule(start(PAIR, [[0, 1], [1, 1]], [[0, 1], [1]]), [*births(PAIR), (0, 0, 0, 1)])


def changed(case: Layered, initial: Any, events: list[tuple[int, int, int, int]]) -> tuple[str, ...]:
    return case.checked(case.schedule(initial, [*births(case), *events])).problems


def test_what_an_id_is_decides_what_it_may_do() -> None:
    initial = start(PAIR, [[0, 1], [1, 1]], [[0, 1], [1]])
    assert changed(PAIR, initial, []) == ()
    for event in ((0, 0, 2, 0), (0, 1, 1, 0), (1, 1, 63, 0)):  # there is no such chunk
        (problem,) = changed(PAIR, initial, [event])
        assert problem.endswith(": the item is moved in its last step, or after it")
    for layer, number in ((0, 0), (0, 1), (1, 0)):
        assert changed(PAIR, initial, [(0, layer, number, 2)])[0].endswith(": its tier does not exist")
        wrong = initial.copy()
        wrong[layer, number] = 2
        assert "initial names a tier that does not exist" in changed(PAIR, wrong, [])
    assert "slot 0 (step 0, layer 0): an item has two events" in changed(PAIR, initial, [(0, 0, 0, 1)] * 2)
    other = VALID | {"item": VALID["item"] + (VALID["slot"] == 0)}  # chunk 1 goes where it is: no move
    assert "slot 0 (step 0, layer 0): no birth of token 2" in PAIR.checked(other).problems
    (problem,) = PAIR.checked(VALID | {"initial": initial[:, T:].astype(np.uint8)}).problems
    assert problem.startswith("initial is uint8 (2, 2), expected uint8 (2, 66)")


def test_ids_without_the_chunks_are_those_of_another_file() -> None:
    """A schedule whose items are numbered like those of the trace."""
    alone = dataclasses.replace(PAIR, placement={})
    arrays = alone.schedule([[0, 1], [1, 1]], born(alone))
    assert alone.checked(arrays).ok
    assert not PAIR.checked(arrays).ok
    padded = arrays | {"initial": start(PAIR, [[0, 1], [1, 1]], [[0, 1], [1]]).astype(np.uint8)}
    assert not PAIR.checked(padded).ok


def test_rules_hold_for_chunks() -> None:
    initial = start(PAIR, [[0, 1], [1, 1]], [[0, 1], [1]])
    still = dataclasses.replace(PAIR, rules={"migration": "none"})
    assert changed(still, initial, [(0, 0, 0, 1)]) == (
        "slot 0 (step 0, layer 0): chunk 0 moves, but the rules allow no migration",
    )
    read = dataclasses.replace(PAIR, rules={"migration": "on-read"})
    assert changed(read, initial, [(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 0, 0)]) == ()  # always read
    for layer, token in ((0, 1), (1, 0)):
        assert changed(read, initial, [(0, layer, T + token, 0)]) == (
            f"slot {layer} (step 0, layer {layer}): token {token} goes up without being read (on-read)",
        )
    other = VALID | {"item": VALID["item"] + (VALID["item"] == 0) * (T + 4)}  # chunk 0 of layer 1
    assert PAIR.checked(other).problems == ("event 0: an item can change only in a slot of its own layer",)


# Certificates


def test_chunks_pay_for_their_units_and_for_what_they_carry() -> None:
    """Slots take no time: what the chunks pay, less the price of all room and what the slots are paid."""
    case = Layered(
        [[[]], [[]]], 0, 2, weights=20, weight_reads=19.0, capacity=(30, None), trace={"births": [0, 0]},
        placement=PLACEABLE | {"weight_chunk_bytes": 8}, rules={"initial": "prefill-first"},
    )  # fmt: skip
    assert case.chunks(0) == [4, 4, 1]  # in tier 0, where 2 bytes stay: 14 units of room
    capacity = np.array([[1, 10, 100], [0, 0, 0]])
    assert case.checked(case.certificate(capacity=capacity)).bound_s == 9 * 1 - 14 * 111
    still = dataclasses.replace(case, rules=case.rules | {"migration": "none"})
    assert still.checked(still.certificate(capacity=capacity)).bound_s == 9 * 111 - 14 * 111
    prices = np.zeros((6, 2, 1), np.int64)
    prices[:2] = 5  # of each item read, in any tier: paid by the chunks, and to the slots
    assert case.checked(case.certificate(prices=prices)).bound_s == 2 * 9 * 5 - 2 * 9 * 5
    prices[0] = 7
    assert still.checked(still.certificate(prices=prices)).bound_s == 2 * 9 * 7 - 2 * 9 * 7
    prices[0, 0] = 70  # a move down in the first slot costs 1 for each item, and is paid back at most once
    prices[5, 0] = 1
    bound = 9 * (70 + 1 + 5) - 9 * (70 + 1 + 7)
    assert case.checked(case.certificate(prices=prices)).bound_s == bound
    prices[2:4] = 1000  # of moves without a read, which chunks never make
    assert case.checked(case.certificate(prices=prices)).bound_s == bound
    prices[2:4] = -1000
    assert case.checked(case.certificate(prices=prices)).bound_s == bound


@pytest.mark.parametrize("whole", [-1, 0, 1, 3, 4, 5])
def test_the_split_of_a_slot_counts_items_of_chunks(whole: int) -> None:
    """A slot is paid 1 for each of 4 items read in tier 1: as much as they cost if they are over `whole`."""
    case = Layered([[[]]], 0, 1, weights=4, weight_reads=4.0, trace=STILL, placement=PLACEABLE)
    prices, theta = np.zeros((6, 1, 1), np.int64), np.zeros((2, 4, 1, 1), np.int64)
    prices[1] = 1
    theta[1, 1] = 1 << 40  # of the second of four resources by name: down1
    arrays = case.certificate(prices=prices, theta=theta, whole=np.full((1, 1), whole))
    assert case.checked(arrays).bound_s == -min(max(whole, 0), 4)


def test_prices_of_large_chunks_must_not_overflow() -> None:
    for size, blocks, fine in ((1, 1, True), (1, 3, True), (1, 4, False), (2, 3, True), (2, 4, False)):
        case = Layered(
            TWO, 0, 2, weights=4**9, weight_reads=[2.0 * size * blocks, 2.0 * size], capacity=(4**9, None),
            placement=PLACEABLE, trace=STILL, rules={"granularity": size},
        )  # fmt: skip
        assert [case.chunks(layer) for layer in (0, 1)] == [[blocks], [1]]
        malformed = ("the certificate is malformed: expected numbers of a path below 2**62",)
        capacity = np.zeros((2, 3), np.int64)
        capacity[0, 0] = 2**60
        found = case.checked(case.certificate(capacity=capacity)).problems
        assert found == (() if fine else malformed)
        prices = np.zeros((6, 1, 2), np.int64)
        prices[1] = 2**59 // size  # counted twice
        assert case.checked(case.certificate(prices=prices)).problems == (() if fine else malformed)
