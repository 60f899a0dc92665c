"""Shares of waits: what blocks pay for being read at late tiers, and what that proves."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes
from kvbound.certificate import read_certificate, write_certificate
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers.lagrangian import bound as dual
from kvbound.solvers.lagrangian.bound import maximize_dual, solve_dual
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.touches import TouchShares
from tests.solvers.lagrangian.cases import bound, swaps, waits

RULES: list[dict[str, Any]] = [
    {},
    {"copies": "exclusive"},
    {"overlap": "step"},
    {"timing": "serial", "copies": "exclusive"},
]


def without_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual, "_stages", lambda *_: [False])


def read_matrix(instance: Instance) -> NDArray[np.bool_]:
    """Return whether each step of the first layer reads each past token, (steps, tokens)."""
    reads = np.unpackbits(instance.trace.rows[0], axis=1, bitorder="little")[:, : instance.tokens] > 0
    return reads & (np.arange(instance.tokens) < 120 + np.arange(len(reads))[:, None])


@pytest.mark.parametrize("on_read", [True, False])
@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
def test_they_prove_waits_that_prices_of_counts_cannot(
    on_read: bool, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = waits(on_read=on_read, copies=copies)
    found = bound(instance, iterations=400)
    without_shares(monkeypatch)
    assert bound(instance, iterations=800) < found * 0.99


def test_blocks_that_were_not_read_for_longest_begin_with_most() -> None:
    """In a short ascent that start is worth more than equal shares."""
    instance = waits(on_read=True)
    minorants = SlotMinorants.of(instance)
    touches = TouchShares(instance, minorants)
    touches.price(np.full(minorants.alpha.shape, 1 / len(minorants.alpha)))
    shares = touches.seconds[-1, :, 0, : instance.blocks]
    reads = read_matrix(instance)
    again = reads[1:, :120] & reads[:-1, :120]
    newly = reads[1:, :120] & ~reads[:-1, :120]
    assert shares[1:, :120][newly].mean() > 20 * shares[1:, :120][again].mean()


@pytest.mark.parametrize("rules", RULES)
def test_they_are_parts_of_the_wait_of_a_slot(rules: dict[str, Any]) -> None:
    """A slot has no more to return, whichever tiers serve reads, than it has waited."""
    instance = waits(on_read=True, **rules)
    minorants, rng = SlotMinorants.of(instance), np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(len(minorants.alpha)), minorants.alpha.shape[1:])
    touches = TouchShares(instance, minorants)
    touches.price(np.moveaxis(weights, -1, 0))
    assert touches.seconds.min() >= 0
    for shares, tier in zip(touches.seconds, instance.memory.tiers[1:], strict=True):
        assert np.all(shares.sum(axis=-1) <= tier.latency * (1 + 1e-12))
    assert touches.seconds[-1].sum() > 0
    read = read_matrix(instance)
    assert not touches.seconds[:, :, 0, : instance.blocks][:, ~read].any()


@pytest.mark.parametrize("on_read", [True, False])
def test_blocks_pay_them_in_both_kernels(on_read: bool) -> None:
    pytest.importorskip("numba")
    instance, rng = waits(on_read=on_read), np.random.default_rng(3)
    lanes = Lanes.all_of(instance, slice(None))
    shape = instance.decode_steps, instance.layers
    touch = rng.exponential(2e-6, (*shape, lanes.blocks.shape[1], instance.tiers))
    prices = rng.exponential(1e-6, (3 * instance.tiers, *shape))
    capacity = rng.exponential(1e-8, (instance.tiers, 1 + instance.slots))
    capacity[-1] = 0
    kernels: tuple[Kernel, Kernel] = ("numpy", "numba")
    (cost, demand), (same, again) = (
        MultiTierPaths(instance, lanes, kernel, touch=touch).evaluate(prices, capacity) for kernel in kernels
    )
    assert cost == same
    assert demand is not None
    assert again is not None
    assert np.array_equal(demand.used, again.used)
    assert demand.tiers is not None
    assert again.tiers is not None
    assert np.array_equal(demand.tiers, again.tiers)
    free = MultiTierPaths(instance, lanes, "numba").evaluate(prices, capacity)[0]
    assert free < cost < free + touch.max(axis=-1).sum()


def test_an_ascent_goes_on_from_a_certificate_with_shares(tmp_path: Any) -> None:
    instance = waits(on_read=True)
    first = maximize_dual(instance, iterations=200).certificate
    assert first.shares is not None
    write_certificate(first, tmp_path / "certificate.npz")
    read = read_certificate(tmp_path / "certificate.npz", instance)
    assert read.shares is not None
    assert np.array_equal(read.shares, first.shares)
    again = maximize_dual(instance, iterations=100, resume=read).certificate
    assert again.bound_s > first.bound_s
    assert again.shares is not None


def test_large_instances_and_those_without_waits_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve_dual(swaps(100, 5), iterations=20)[1].shares is None
    monkeypatch.setattr("kvbound.solvers.lagrangian.touches.MOST_CELLS", 1000)
    assert maximize_dual(waits(on_read=True), iterations=20).certificate.shares is None
