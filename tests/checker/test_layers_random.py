"""Where layers differ, schedules, residencies and bounds agree with decoding in plain Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kvbound.checker import check, check_result
from tests.checker.layered import Layered
from tests.checker.plain import Placed, Plain
from tests.checker.test_layers_fields import infeasible

FULL = 1 << 40


def any_sizes(rng: np.random.Generator, layers: int, tiers: int) -> dict[str, Any]:
    """Sizes by layer, 0 among them, and formats of other ratios."""
    sizes = rng.integers(0, 5, layers)
    if len(set(sizes.tolist())) == 1:
        sizes[0] = 5 - sizes[0]
    formats = {
        f"t{k}": {"bytes": (rng.integers(1, 4, layers) * sizes).tolist()}
        for k in range(tiers)
        if rng.random() < 0.4
    }
    return {"sizes": sizes.tolist(), "formats": formats}


def readable(plain: Plain, layer: int, token: int, step: int) -> bool:
    return plain.born[token] < step <= plain.ends[layer][token] and plain.size[layer][0] > 0


def any_layered(rng: np.random.Generator, most: int, layers: int, tiers: int, **rules: Any) -> Layered:
    """Any instance of a few tokens and steps."""
    steps, tokens = int(rng.integers(1, 2 + most // 2)), int(rng.integers(2, most + 1))
    prefill = int(rng.integers(1, tokens + 1))
    births = np.bincount(rng.integers(0, steps, tokens - prefill), minlength=steps)
    born = [-1] * prefill + np.repeat(np.arange(steps), births).tolist()
    own = [int(rng.integers(max(b, 0), steps)) if rng.random() < 0.2 else None for b in born]
    windows: list[int | None] = [int(w) if w else None for w in rng.integers(0, 4, layers)]
    if not any(windows):
        windows[0] = 2
    more = any_sizes(rng, layers, tiers) if layers > 1 and rng.random() < 0.7 else {}
    trace = {"births": births.tolist(), "ends": own, "sequence": rng.integers(0, 2, tokens).tolist()}
    drawn = {
        "copies": str(rng.choice(["inclusive", "exclusive"])),
        "initial": str(rng.choice(["free", "prefill-first"])),
        "migration": str(rng.choice(["none", "on-read", "prefetch"])), "granularity": int(rng.integers(1, 4)),
        "timing": str(rng.choice(["serial", "parallel"])),
    } | rules  # fmt: skip
    latency = 0.5
    if drawn["copies"] == "inclusive":
        drawn["timing"], latency = "serial", 0.0
    weights = int(rng.integers(0, 3))
    case = Layered(
        [[[] for _ in range(layers)]] * steps, prefill, windows=windows if rng.random() < 0.8 else None,
        capacity=(None,) * tiers, weights=weights, weight_reads=float(rng.integers(0, 3)) * (weights > 0),
        latency=latency * (rng.random() < 0.5), rules=drawn, trace=trace, **more,
    )  # fmt: skip
    plain = Plain(case)
    reads = [
        [
            [
                token
                for token in range(tokens)
                if rng.random() < 0.4
                and (born[token] == step or readable(plain, layer, token, step))
            ]
            for layer in range(layers)
        ]
        for step in range(steps)
    ]  # fmt: skip
    return dataclasses.replace(case, reads=reads)


def agreed(case: Layered, placed: Placed) -> None:
    report = case.checked(placed.arrays, claimed_s=placed.time_s)
    assert report.problems == ()
    assert report.peak_bytes == placed.peak_bytes
    assert report.moved_bytes == placed.moved_bytes
    assert report.hit_bytes is not None
    assert report.hit_bytes.tolist() == placed.hit_bytes


def with_room(case: Layered, room: tuple[int | None, ...]) -> Layered:
    return dataclasses.replace(case, capacity=room)


@pytest.mark.parametrize("seed", range(100))
def test_random_schedules_take_and_fill_what_plain_python_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 9, int(rng.integers(1, 4)), int(rng.integers(2, 4)), initial="free")
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


@pytest.mark.parametrize("seed", range(100))
def test_prefill_first_puts_each_item_where_it_still_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 12, int(rng.integers(1, 4)), 3, initial="prefill-first", migration="none")
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
        made = with_room(case, (int(rng.integers(case.weights, first + 1)), limit))
        optimum = Plain(made).optimum()
        if optimum is not None:
            return made, optimum
    raise AssertionError


def any_multipliers(rng: np.random.Generator, case: Layered) -> dict[str, Any]:
    """Random prices of a realistic magnitude."""
    tiers, slots = len(case.capacity), (case.steps, case.layers)
    capacity = rng.random((tiers, 1 + slots[0] * slots[1])) * rng.choice([0, 0.05, 0.3, 1]) * 2.0**30
    for k, limit in enumerate(case.capacity):
        if limit is None or (case.rules["copies"] == "inclusive" and k == tiers - 1):
            capacity[k] = 0
    theta = rng.dirichlet(np.full(2 * tiers, 0.5), (2, *slots))
    if case.rules["timing"] == "serial":
        theta = rng.choice([0.3, 1.0, 1.0], theta.shape)
    scale = rng.choice([0, 0.3, 1, 3], (1, *slots)) * 2.0**30
    return case.certificate(
        scale=np.int64(30), capacity=capacity.astype(np.int64), tier=np.int64(rng.integers(tiers)),
        prices=(rng.normal(0.4, 0.7, (3 * tiers, *slots)) * scale).astype(np.int64),
        whole=rng.integers(-1, 4, slots),
        theta=np.moveaxis((theta * FULL * (1 - 1e-13)).astype(np.int64), -1, 1).copy(),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(120))
def test_optima_are_accepted_and_no_multipliers_prove_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case, optimum = tight(rng, any_layered(rng, 4, 2, 2))
    agreed(case, optimum)
    for _ in range(6):
        report = case.checked(any_multipliers(rng, case))
        assert report.problems == ()
        assert report.bound_s is not None
        assert report.bound_s <= optimum.time_s * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_what_every_byte_costs_proves_the_optimum_where_that_is_all_that_counts(seed: int) -> None:
    """With serial timing, room for everything and no latencies, every block minimizes its own time."""
    rng = np.random.default_rng(seed)
    case = dataclasses.replace(any_layered(rng, 4, 2, 2, timing="serial", initial="free"), latency=0.0)
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


@pytest.mark.parametrize("seed", range(60))
def test_blocks_pay_for_their_units_until_they_leave(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 9, int(rng.integers(1, 4)), 2, initial="prefill-first", migration="none")
    case, times = with_room(case, (10**4, None)), 1 + case.steps * case.layers
    plain = Plain(case)
    unit = int(np.gcd.reduce([size[0] for size in plain.size]))
    used = 0
    for layer, last in enumerate(plain.last):
        for begin, end in zip(plain.begin, last, strict=True):
            leave = times if end == case.steps else max(1 + end * case.layers + layer, 0)
            used += plain.size[layer][0] // unit * leave * (begin < 0 <= end)
    capacity = np.zeros((2, times), np.int64)
    capacity[0] = 3
    room = (10**4 - case.weights) // (unit * case.rules["granularity"])
    free, paid = (
        case.checked(case.certificate(capacity=prices)).bound_s for prices in (0 * capacity, capacity)
    )
    assert free is not None
    assert paid is not None
    assert paid - free == 3 * (used - times * room)


@pytest.mark.parametrize("seed", range(100))
def test_infeasible_is_refused_only_where_a_schedule_exists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 4, 2, 2)
    peaks = np.max([Plain(case).walk(rng).peak_bytes for _ in range(4)], axis=0)
    case = with_room(case, tuple(max(int(peak + rng.integers(-4, 5)), 0) for peak in peaks))
    found = check_result(case.expanded, case.rows, infeasible(case)).problems
    assert not found or Plain(case).optimum() is not None
    roomy = with_room(case, (case.weights, int(sum(peaks)) + 1))
    assert check_result(roomy.expanded, roomy.rows, infeasible(roomy)).problems


@pytest.mark.parametrize("seed", range(60))
def test_a_residency_is_reported_as_its_events_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 9, int(rng.integers(1, 4)), 2, copies="inclusive", granularity=1)
    plain = Plain(case)
    placed = plain.walk(rng)
    after = [np.zeros_like(layer) for layer in case.rows]
    events = placed.arrays
    for k, (slot, item) in enumerate(zip(events["slot"], events["item"], strict=True)):
        layer, token = divmod(int(item), len(case.born))
        if not plain.held(layer, token, int(slot) // case.layers):
            events["tier"][k] = 1  # a residency has no bit for it
    for layer, bits in enumerate(after):
        tier = dict(enumerate(events["initial"][layer].tolist()))
        for step in range(case.steps):
            for slot, item, new in zip(events["slot"], events["item"], events["tier"], strict=True):
                if slot == step * case.layers + layer:
                    tier[int(item) - layer * len(case.born)] = int(new)
            for token, k in tier.items():
                if k == 0 and plain.held(layer, token, step):
                    bits[step, token >> 3] |= 1 << (token & 7)
    file = {"schema": np.array("kvbound.residency/1"), "initial": events["initial"]}
    file |= {f"after_{layer}": bits for layer, bits in enumerate(after)}
    found = case.checked(file).to_mapping()
    assert found == case.checked(events).to_mapping() | {"checked": "kvbound.residency/1"}
    assert found["ok"]
    for layer, token in np.ndindex(case.layers, len(case.born)):
        step = int(rng.integers(case.steps))
        wrong = after[layer].copy()
        wrong[step, token >> 3] |= 1 << (token & 7)
        report = case.checked(file | {f"after_{layer}": wrong})
        if plain.begin[token] <= step and plain.last[layer][token] <= step:
            assert f"step {step}, layer {layer}: a token is in tier 0 that has ended" in report.problems


@pytest.mark.parametrize("seed", range(40))
def test_equal_windows_are_ends(seed: int) -> None:
    """Where every layer has one window, the same instance can be written with ends alone."""
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 9, 2, 2, initial="free")
    case = dataclasses.replace(case, windows=[3, 3], reads=[[[], []] for _ in case.reads])
    plain = Plain(case)
    if min(plain.ends[0]) < 0:
        return  # a prompt beyond its window has no such form
    ends = [None if end == case.steps else end for end in plain.ends[0]]
    same = dataclasses.replace(case, windows=None, trace=case.trace | {"ends": ends})
    file, prices = plain.walk(rng).arrays, any_multipliers(rng, case)
    assert same.sha256 != case.sha256
    for arrays in (file, prices):
        one, other = (each.checked(arrays).to_mapping() for each in (case, same))
        assert one | {"instance_sha256": ""} == other | {"instance_sha256": ""}
        assert one["ok"]


def test_a_file_of_another_instance_is_named() -> None:
    case = any_layered(np.random.default_rng(0), 9, 2, 2)
    arrays = Plain(case).walk(np.random.default_rng(0)).arrays
    made = {"instance_sha256": np.array("0" * 64)}
    assert "another instance" in check(case.expanded, case.rows, arrays | made).problems[0]
