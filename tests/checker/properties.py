"""What holds for schedules and bounds of small instances, computed by the checker and by plain Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.checker.drawn import FULL, with_room
from tests.checker.layered import Layered
from tests.checker.plain import Placed, Plain


def agreed(case: Layered, placed: Placed) -> None:
    report = case.checked(placed.arrays, claimed_s=placed.time_s)
    assert report.problems == ()
    assert report.peak_bytes == placed.peak_bytes
    assert report.moved_bytes == placed.moved_bytes
    assert report.hit_bytes is not None
    assert report.hit_bytes.tolist() == placed.hit_bytes


def takes_and_fills_what_plain_python_says(rng: np.random.Generator, case: Layered) -> None:
    """Random schedules are accepted with the room that they take, and not with a byte less."""
    for _ in range(3):
        placed = Plain(case).walk(rng)
        agreed(case, placed)
        agreed(with_room(case, placed.peak_bytes), placed)
        for k, peak in enumerate(placed.peak_bytes):
            if not peak:
                continue
            less = with_room(case, tuple(peak - (k == other) for other, peak in enumerate(placed.peak_bytes)))
            (problem,) = less.checked(placed.arrays).problems
            assert f"tier t{k} holds {peak} bytes, 1 over its capacity" in problem


def starts_where_prefill_first_puts_it(rng: np.random.Generator, case: Layered) -> None:
    """Of two initial placements, only the one that the rule prescribes is accepted."""
    whole = Plain(case).walk(rng).peak_bytes
    room = tuple(int(rng.integers(0, peak + 2)) if rng.random() < 0.8 else None for peak in whole)
    case = with_room(case, (*room[:2], None))
    forced = Plain(case).walk(rng).arrays
    assert not any("prefill-first puts" in problem for problem in case.checked(forced).problems)
    free = dataclasses.replace(case, rules=case.rules | {"initial": "free"})
    other = Plain(free).walk(rng).arrays
    plain, differs = Plain(case), other["initial"] != forced["initial"]
    wrong = any(
        differs[layer, plain.starting(layer, block)].any()
        for layer, block in np.ndindex(case.layers, len(plain.blocks))
    )
    assert any("prefill-first puts" in problem for problem in case.checked(other).problems) == wrong


def tight(rng: np.random.Generator, case: Layered) -> tuple[Layered, Placed]:
    """The instance with limits in which a schedule just fits, and its optimum."""
    for _ in range(20):
        first, last = Plain(case).walk(rng).peak_bytes
        limit = None if rng.random() < 0.5 else last + int(rng.integers(-1, 3))
        made = with_room(case, (int(rng.integers(Plain(case).resident, first + 1)), limit))
        optimum = Plain(made).optimum()
        if optimum is not None:
            return made, optimum
    raise AssertionError


def proves_no_more_than(optimum: Placed, case: Layered, arrays: dict[str, Any]) -> None:
    """A certificate is accepted, and its bound is not above the optimum."""
    report = case.checked(arrays)
    assert report.problems == ()
    assert report.bound_s is not None
    assert report.bound_s <= optimum.time_s * (1 + 1e-12)


def byte_costs_prove_the_optimum(case: Layered) -> None:
    """With serial timing, room for everything and no latencies, every block minimizes its own time."""
    case = dataclasses.replace(case, latency=0.0)
    plain, slots = Plain(case), (case.steps, case.layers)
    second = np.array([1 / 4, 1.0])
    prices = np.zeros((6, *slots))
    for layer in range(case.layers):
        cost = second * plain.size[layer]
        served = np.minimum(cost, cost[-1]) if plain.inclusive else cost
        prices[:, :, layer] = np.concatenate([served, cost, cost])[:, None]
    arrays = case.certificate(
        scale=np.int64(40), prices=np.floor(prices * 2.0**40).astype(np.int64),
        theta=np.full((2, 4, *slots), FULL),
    )  # fmt: skip
    optimum = plain.optimum()
    assert optimum is not None
    assert case.checked(arrays).bound_s == pytest.approx(optimum.time_s, rel=1e-9, abs=1e-9)


def pays_for_its_units_until_it_leaves(case: Layered) -> None:
    """A capacity price of 3 in tier 0 is paid for what starts there, and for the room."""
    case, times = with_room(case, (10**4, None)), 1 + case.steps * case.layers
    plain = Plain(case)
    unit = int(np.gcd.reduce([size[0] for size in plain.size]))
    used = 0
    for layer, last in enumerate(plain.last):
        for block, (begin, end) in enumerate(zip(plain.begin, last, strict=True)):
            leave = times if end == case.steps else max(1 + end * case.layers + layer, 0)
            units = plain.size[layer][0] // unit * plain.chunks[layer].get(block, 1)
            used += units * leave * (begin < 0 <= end)
    capacity = np.zeros((2, times), np.int64)
    capacity[0] = 3
    room = (10**4 - plain.resident) // (unit * case.rules["granularity"])
    free, paid = (
        case.checked(case.certificate(capacity=prices)).bound_s for prices in (0 * capacity, capacity)
    )
    assert free is not None
    assert paid is not None
    assert paid - free == 3 * (used - times * room)
