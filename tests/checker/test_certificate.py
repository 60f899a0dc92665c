"""The checker's bound holds for arbitrary multipliers; claims above it are rejected."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.certificate import FULL
from kvbound.checker import Report, check, paths
from kvbound.checker.conclusion import prefill_first
from kvbound.checker.inputs import read_case
from kvbound.checker.multipliers import read_multipliers
from kvbound.checker.paths import sum_of_paths
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.result import Status
from kvbound.rules import Migration, Rules
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.mip.exact import solve_exact
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.workloads import RandomSwap
from tests.solvers.lagrangian.cases import waits
from tests.strategies import rule_combinations, tiny_instance, with_overlap

Arrays = dict[str, Any]
FIELDS = ("instance_sha256", "bound_s", "scale", "tier", "capacity", "prices", "whole", "theta")


def checked(instance: Instance, arrays: Arrays, **more: Any) -> Report:
    return check(instance.expanded(), instance.trace.rows, arrays, **more)


def any_multipliers(instance: Instance, rng: np.random.Generator) -> Arrays:
    """Random multipliers of a realistic magnitude."""
    slots, tiers = (instance.decode_steps, instance.layers), instance.tiers
    timed = slots[0], 1 if instance.by_step else slots[1]
    resources = len(instance.memory.resources)
    scale = int(rng.integers(20, 45))
    unit = 2.0**scale * int(instance.item_bytes.max()) / float(rng.choice(instance.memory.bandwidths))
    capacity = rng.random((tiers, 1 + slots[0] * slots[1])) * rng.choice([0, 0.1, 1, 5]) * unit
    for k, room in enumerate(instance.capacity_units):
        if room is None or (instance.inclusive and k == tiers - 1):
            capacity[k] = 0
    prices = rng.normal(0.3, 0.7, (3 * tiers, *slots)) * rng.choice([0, 0.3, 1]) * unit
    divided = not instance.inclusive and rng.random() < 0.7
    writes = {"whole_writes": rng.integers(-1, 4, timed)} if divided else {}
    sets = 1 << sum(tier.latency > 0 for tier in instance.memory.tiers)
    theta = rng.dirichlet(np.full(resources, 0.5), (sets * (4 if divided else 2), *timed))
    if instance.rules.timing == "serial":
        theta = rng.choice([0.3, 1.0, 1.0], theta.shape)
    late = [tier.latency for tier in instance.memory.tiers if tier.latency]
    if late and rng.random() < 0.7:
        paid = rng.random((len(late), *slots, instance.blocks)) * rng.choice([0, 0.3, 1])
        writes["shares"] = (paid * max(late) * 2.0**scale).astype(np.int64)
    return {
        "schema": np.array("kvbound.certificate/1"),
        "instance_sha256": np.array(instance.sha256),
        "bound_s": np.float64(-np.finfo(float).max),
        "scale": np.int64(scale),
        "tier": np.int64(rng.integers(tiers)),
        "capacity": capacity.astype(np.int64),
        "prices": prices.astype(np.int64),
        "whole": rng.integers(-1, 4, timed),
        "theta": np.moveaxis((theta * FULL * (1 - 1e-13)).astype(np.int64), -1, 1).copy(),
        **writes,
    }


@given(st.integers(0, 2**32 - 1), st.sampled_from(rule_combinations()))
@settings(max_examples=150)
def test_any_multipliers_prove_no_more_than_the_optimum(seed: int, rules: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    instance = with_overlap(rng, tiny_instance(rng, **rules))
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    for _ in range(4):
        report = checked(instance, any_multipliers(instance, rng))
        assert report.problems == ()
        assert report.bound_s is not None
        assert report.bound_s <= optimum * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
@settings(max_examples=40)
def test_the_price_of_the_inclusive_copy_of_a_birth_cancels(seed: int, tiers: int) -> None:
    """Each slot writes one birth to the last tier: what its slot pays for that, the item is paid."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, tiers=tiers, copies="inclusive")
    arrays = any_multipliers(instance, rng)
    found = checked(instance, arrays).bound_s
    arrays["prices"][-1] += rng.integers(-(10**6), 10**6, arrays["prices"][-1].shape)
    assert checked(instance, arrays).bound_s == found


@pytest.fixture(scope="module")
def proved() -> tuple[Instance, Arrays]:
    """An instance all of whose multipliers affect the bound, and its certificate."""
    resources = {"fast": 4900.0, "down": 64.0, "bus": 500.0, "up": 64.0}
    fast, slow = Tier("fast", 40, ("fast",), ("fast",)), Tier("slow", None, ("down", "bus"), ("up", "bus"))
    llm = Llm("some", 2, 1, 0, 300.0)
    rules = Rules(migration=Migration.PREFETCH)
    reads = RandomSwap(layers=2, prefill_tokens=40, decode_steps=10, variation=0.3, seed=1)
    instance = Instance("some", Memory("two", resources, (fast, slow)), llm, rules, reads)
    return instance, solve_dual(instance, iterations=300, kernel="numpy")[1].arrays()


@pytest.fixture(scope="module")
def optimum(proved: tuple[Instance, Arrays]) -> float:
    """The optimal decode time of that instance."""
    found = solve_exact(proved[0], gap=0.0)
    assert found.status is Status.OPTIMAL
    assert found.time_s is not None
    return found.time_s


def test_accepts_and_returns_the_bound(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    report = checked(instance, arrays)
    assert report.ok
    assert report.bound_s is not None
    assert arrays["bound_s"] <= report.bound_s <= arrays["bound_s"] * (1 + 1e-10)
    assert checked(instance, arrays, claimed_s=report.bound_s).ok
    above = math.nextafter(report.bound_s, math.inf)
    assert not checked(instance, arrays, claimed_s=above).ok
    assert not checked(instance, arrays, claimed_s=math.nan).ok
    assert checked(instance, arrays | {"bound_s": np.float64(report.bound_s)}).ok
    assert not checked(instance, arrays | {"bound_s": np.float64(above)}).ok


@pytest.mark.parametrize("factor", [1 + 1e-9, 1.1, math.inf, math.nan])
def test_rejects_a_bound_claimed_too_high(proved: tuple[Instance, Arrays], factor: float) -> None:
    instance, arrays = proved
    report = checked(instance, arrays | {"bound_s": np.float64(arrays["bound_s"] * factor)})
    assert len(report.problems) == 1
    assert "is not proved" in report.problems[0]


@pytest.mark.parametrize("field", FIELDS)
def test_rejects_a_missing_or_misshapen_field(proved: tuple[Instance, Arrays], field: str) -> None:
    instance, arrays = proved
    assert not checked(instance, {k: v for k, v in arrays.items() if k != field}).ok
    assert not checked(instance, arrays | {field: np.zeros((2, 2), np.float32)}).ok


def retyped(values: Any) -> list[Any]:
    """The same values with other types, including types that are not numeric."""
    return [
        values.astype(kind)
        for kind in ("i4", "u8", "f4", "f8", ">i8", "U40", "O", "M8[s]")
        if kind != values.dtype
    ]


def reshaped(values: Any) -> list[Any]:
    """The same values with another number of axes, a row more or less, or none at all."""
    shapes = [values[None], values.reshape(-1)[:0]]
    for axis in range(values.ndim):
        shapes += [np.delete(values, 0, axis), np.concatenate([values, values.take([0], axis)], axis)]
        shapes += (
            [np.swapaxes(values, axis, axis - 1)] if values.shape[axis] != values.shape[axis - 1] else []
        )
    return shapes


@pytest.mark.parametrize("field", ["bound_s", "scale", "tier", "capacity", "prices", "whole", "theta"])
def test_rejects_wrong_types_and_shapes(proved: tuple[Instance, Arrays], field: str) -> None:
    instance, arrays = proved
    right = np.asarray(arrays[field])
    for wrong in (*retyped(right), *reshaped(right), None, "text"):
        report = checked(instance, arrays | {field: wrong})
        assert len(report.problems) == 1, wrong
        assert field in report.problems[0]
        assert report.bound_s is None


@pytest.mark.parametrize("field", ["schema", "instance_sha256"])
def test_rejects_wrong_texts(proved: tuple[Instance, Arrays], field: str) -> None:
    instance, arrays = proved
    right = str(arrays[field])
    texts = (right[:-1], right + " ", right.upper(), "", "0" + right[1:], right[:-1] + "2")
    wrong = [np.array(text) for text in texts if text != right]
    for value in (
        *wrong,
        np.array([right]),
        np.array(right.encode()),
        np.array(right, object),
        np.int64(1),
        None,
    ):
        report = checked(instance, arrays | {field: value})
        assert not report.ok, value
        assert report.bound_s is None or "another instance" in report.problems[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["capacity", "prices", "whole", "theta"]))
@settings(max_examples=60)
def test_no_corruption_of_one_entry_proves_more_than_the_optimum(
    proved: tuple[Instance, Arrays], optimum: float, seed: int, field: str
) -> None:
    """A bound that is still accepted must still be valid."""
    instance, arrays = proved
    rng = np.random.default_rng(seed)
    changed = arrays[field].copy()
    entry = tuple(rng.integers(changed.shape))
    changed[entry] ^= np.int64(1) << rng.integers(64).astype(np.int64)
    report = checked(instance, arrays | {field: changed})
    if report.bound_s is not None:
        assert report.bound_s <= optimum * (1 + 1e-12)
        assert report.ok == (arrays["bound_s"] <= report.bound_s)
    else:
        assert "malformed" in report.problems[0]


@pytest.mark.parametrize("field", ["prices", "capacity", "whole", "theta"])
def test_changed_slots_are_noticed(proved: tuple[Instance, Arrays], field: str) -> None:
    """Changing the multipliers of any step invalidates the claim, with few exceptions."""
    instance, arrays = proved
    unnoticed = 0
    for step in range(instance.decode_steps):
        changed = arrays[field].copy()
        if field == "capacity":
            changed[0, 1 + step * instance.layers : 1 + (step + 1) * instance.layers] += arrays[
                "prices"
            ].max()
        elif field == "whole":
            changed[step] += 3
        else:
            changed[..., step, :] //= 4
        unnoticed += checked(instance, arrays | {field: changed}).ok
    assert unnoticed <= (3 if field == "whole" else 1)


def test_rejects_a_damaged_file(proved: tuple[Instance, Arrays], tmp_path: Path) -> None:
    instance, arrays = proved
    whole = tmp_path / "certificate.npz"
    np.savez(whole, **arrays)
    assert check(instance.expanded(), instance.trace.rows, whole).ok
    content = whole.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        whole.write_bytes(content[:cut])
        report = check(instance.expanded(), instance.trace.rows, whole)
        assert len(report.problems) == 1
    np.savez(whole, **arrays | {"prices": arrays["prices"].astype(object)})
    assert not check(instance.expanded(), instance.trace.rows, whole).ok


@pytest.mark.parametrize("field", ["scale", "capacity", "prices", "whole", "theta"])
def test_changed_multipliers_prove_less_than_was_claimed(proved: tuple[Instance, Arrays], field: str) -> None:
    """Tuned multipliers are near their optimum; far from it they do not prove the claim."""
    instance, arrays = proved
    changes = {"scale": 2, "capacity": arrays["capacity"] * 50, "prices": -arrays["prices"]}
    changes["whole"] = np.full_like(arrays["whole"], -1)
    changes["theta"] = arrays["theta"] // 2
    changed = np.asarray(changes[field], np.int64) + (arrays["scale"] if field == "scale" else 0)
    report = checked(instance, arrays | {field: changed})
    assert len(report.problems) == 1
    assert "is not proved" in report.problems[0]


@pytest.mark.parametrize(
    ("field", "index", "value"),
    [
        ("theta", (0, 0, 0, 0), FULL + 1),
        ("theta", (0, 0, 0, 0), -1),
        ("capacity", (0, 0), -1),
        ("capacity", (1, 0), 1),
        ("prices", (0, 0, 0), 2**62),
        ("prices", (0, 0, 0), -(2**63)),
        ("capacity", (0, 0), 2**63 - 1),
        ("scale", (), 2000),
        ("scale", (), -1001),
        ("tier", (), 2),
        ("tier", (), -1),
    ],
)
def test_rejects_invalid_multipliers(
    proved: tuple[Instance, Arrays], field: str, index: tuple[int, ...], value: int
) -> None:
    instance, arrays = proved
    changed = np.array(arrays[field])
    changed[index] = value
    report = checked(instance, arrays | {field: changed})
    assert len(report.problems) == 1
    assert "malformed" in report.problems[0]


def test_only_exclusive_copies_divide_slots_by_their_writes(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    assert instance.inclusive
    theta, whole_writes = np.concatenate([arrays["theta"]] * 2), arrays["whole"]
    report = checked(instance, arrays | {"theta": theta, "whole_writes": whole_writes})
    assert "whole_writes with exclusive copies only" in report.problems[0]


def test_cases_for_numbers_of_writes_are_read_in_their_order() -> None:
    """With three quarters of the weights swapped, or as many cases as without them, less is proved."""
    instance = kv.read_instance("tiny-exclusive-prefetch")
    certificate = solve_dual(instance, iterations=300)[1]
    arrays, writes = certificate.arrays(), certificate.whole_writes
    assert writes is not None
    assert checked(instance, arrays).ok
    for swapped in ([1, 0, 3, 2], [2, 3, 0, 1]):
        assert "is not proved" in checked(instance, arrays | {"theta": arrays["theta"][swapped]}).problems[0]
    assert "is not proved" in checked(instance, arrays | {"whole_writes": writes + 2}).problems[0]
    for theta in (arrays["theta"][:2], arrays["theta"][:3], np.concatenate([arrays["theta"]] * 2)):
        assert "theta" in checked(instance, arrays | {"theta": theta}).problems[0]
    del arrays["whole_writes"]
    assert "theta" in checked(instance, arrays).problems[0]


@pytest.fixture(scope="module")
def sharing() -> tuple[Instance, Arrays]:
    """An instance whose slots wait, and its certificate, in which blocks share the waits."""
    instance = waits(on_read=True)
    return instance, solve_dual(instance, iterations=200)[1].arrays()


def test_shares_of_waits_are_returned_where_they_can_have_been_paid(sharing: tuple[Instance, Arrays]) -> None:
    """Higher, lower, or others' shares prove less; a slot that could keep them would prove more."""
    instance, arrays = sharing
    report = checked(instance, arrays)
    assert report.ok
    assert report.bound_s is not None
    shares = arrays["shares"]
    assert shares[-1].any()
    for changed in (shares * 3, shares // 3, shares[:, ::-1].copy(), shares[..., ::-1].copy()):
        assert "is not proved" in checked(instance, arrays | {"shares": changed}).problems[0]
    without = {name: value for name, value in arrays.items() if name != "shares"}
    assert "is not proved" in checked(instance, without).problems[0]


@pytest.mark.parametrize("change", ["negative", "overflow", "missing tier", "missing block", "type"])
def test_rejects_invalid_shares(sharing: tuple[Instance, Arrays], change: str) -> None:
    instance, arrays = sharing
    shares = arrays["shares"].copy()
    if change in ("negative", "overflow"):
        shares[-1, 2, 0, 1] = -1 if change == "negative" else 2**62
    wrong = {
        "missing tier": shares[:1],
        "missing block": shares[..., 1:],
        "type": shares.astype(np.float64),
    }
    report = checked(instance, arrays | {"shares": wrong.get(change, shares)})
    assert len(report.problems) == 1
    assert report.bound_s is None


def test_rejects_shares_where_no_tier_waits(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    shape = 1, instance.decode_steps, instance.layers, instance.blocks
    assert "shares" in checked(instance, arrays | {"shares": np.zeros(shape, np.int64)}).problems[0]


def test_weights_of_resources_add_up_to_one(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    theta = arrays["theta"].copy()
    theta[:, 0] += 2
    theta[:, 1] += FULL - theta.sum(axis=1)
    report = checked(instance, arrays | {"theta": np.maximum(theta, 0), "bound_s": np.float64(0)})
    assert report.ok == bool((np.maximum(theta, 0).sum(axis=1) <= FULL).all())
    theta[:, 2] = FULL
    assert not checked(instance, arrays | {"theta": theta}).ok


def test_serial_weights_are_at_most_one_each(proved: tuple[Instance, Arrays]) -> None:
    instance = proved[0].with_rules(timing="serial")
    arrays = any_multipliers(instance, np.random.default_rng(0))
    arrays["theta"][:] = FULL
    assert checked(instance, arrays).ok
    arrays["theta"][1, 2, 3, 0] += 1
    assert "malformed" in checked(instance, arrays).problems[0]


def test_one_slot_may_have_a_high_price_as_a_path_pays_it_once(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    for step, fine in ((2**60, True), (2**61, False)):
        prices = np.zeros_like(arrays["prices"])
        prices[0, 3] = step
        assert (checked(instance, arrays | {"prices": prices}).bound_s is not None) == fine


def test_coarse_units_prove_a_little_less(proved: tuple[Instance, Arrays]) -> None:
    """The unit of 2**-scale seconds may be of any size without overflow."""
    instance, arrays = proved
    exact = checked(instance, arrays).bound_s
    assert exact is not None
    slower = {name: rate * 2.0**-80 for name, rate in instance.memory.resources.items()}
    slow = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, resources=slower))
    scaled: Arrays = {"scale": arrays["scale"] - 80, "bound_s": np.float64(0)}
    scaled["instance_sha256"] = np.array(slow.sha256)
    assert scaled["scale"] < 0
    found = checked(slow, arrays | scaled)
    assert found.ok
    assert found.bound_s == exact * 2.0**80


def test_the_highest_prices_in_the_coarsest_units_prove_nothing(proved: tuple[Instance, Arrays]) -> None:
    """Their sums exceed the range of floats."""
    instance, arrays = proved
    highest = {"prices": np.full_like(arrays["prices"], 1 << 54), "scale": np.int64(-1000)}
    claimed = checked(instance, arrays | highest)
    assert "not proved, only -1.79" in claimed.problems[0]
    assert checked(instance, arrays | highest | {"bound_s": np.float64(claimed.bound_s)}).ok
    json.dumps(claimed.to_mapping(), allow_nan=False)


def test_rejects_another_instance(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    foreign = instance.with_rules(migration="none")
    assert not checked(foreign, arrays).ok
    reads = RandomSwap(layers=2, prefill_tokens=40, decode_steps=10, variation=0.3, seed=2)
    assert not checked(dataclasses.replace(instance, workload=reads), arrays).ok
    assert not checked(instance.with_rules(accounting="fang2025"), arrays).ok


def test_rejects_a_trace_that_was_changed(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    rows = [layer.copy() for layer in instance.trace.rows]
    rows[0][0, 0] ^= 1
    assert not check(instance.expanded(), rows, arrays).ok


@given(st.integers(0, 2**32 - 1), st.sampled_from(rule_combinations()))
@settings(max_examples=100)
def test_between_two_tiers_differences_add_up_to_the_paths(seed: int, rules: dict[str, Any]) -> None:
    """Closed states, here none, are looked for by the general method alone."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, **rules | {"tiers": 2, "granularity": 1})
    case = read_case(instance.expanded(), instance.trace.rows)
    given_ = read_multipliers(case, any_multipliers(instance, rng))
    forced = prefill_first(case) if instance.rules.initial == "prefill-first" else [None] * case.layers
    for layer, start in enumerate(forced):
        packed = case.rows(layer)
        fast = sum_of_paths(case, given_, layer, packed, start)
        general = sum_of_paths(case, given_, layer, packed, start, {})
        assert fast == general


def test_sums_of_gains_do_not_overflow() -> None:
    gains = np.full(4, -(2**61), np.int64)
    assert paths._sum(gains) == -(2**63)
    assert paths._sum(gains[:0]) == 0
