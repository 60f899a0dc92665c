"""Where layers differ, schedules, residencies and bounds agree with decoding in plain Python."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kvbound.checker import check, check_result
from tests.checker.drawn import any_layered, any_multipliers, with_room
from tests.checker.plain import Plain
from tests.checker.properties import (
    agreed,
    byte_costs_prove_the_optimum,
    pays_for_its_units_until_it_leaves,
    proves_no_more_than,
    starts_where_prefill_first_puts_it,
    takes_and_fills_what_plain_python_says,
    tight,
)
from tests.checker.test_layers_fields import infeasible


@pytest.mark.parametrize("seed", range(100))
def test_random_schedules_take_and_fill_what_plain_python_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 9, int(rng.integers(1, 4)), int(rng.integers(2, 4)), initial="free")
    takes_and_fills_what_plain_python_says(rng, case)


@pytest.mark.parametrize("seed", range(100))
def test_prefill_first_puts_each_item_where_it_still_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 12, int(rng.integers(1, 4)), 3, initial="prefill-first", migration="none")
    starts_where_prefill_first_puts_it(rng, case)


@pytest.mark.parametrize("seed", range(120))
def test_optima_are_accepted_and_no_multipliers_prove_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case, optimum = tight(rng, any_layered(rng, 4, 2, 2))
    agreed(case, optimum)
    for _ in range(6):
        proves_no_more_than(optimum, case, any_multipliers(rng, case))


@pytest.mark.parametrize("seed", range(60))
def test_what_every_byte_costs_proves_the_optimum_where_that_is_all_that_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    byte_costs_prove_the_optimum(any_layered(rng, 4, 2, 2, timing="serial", initial="free"))


@pytest.mark.parametrize("seed", range(60))
def test_blocks_pay_for_their_units_until_they_leave(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 4))
    case = any_layered(rng, 9, layers, 2, initial="prefill-first", migration="none")
    pays_for_its_units_until_it_leaves(case)


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
