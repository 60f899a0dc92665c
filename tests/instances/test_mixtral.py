"""Mixtral-8x7B in batches of 4 and 16: sizes, bounds without traces, and solutions at 1/64 of the size."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

import kvbound as kv
from kvbound.binding import binding
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.library import best_known
from kvbound.result import BoundStatus
from tests.instances.paper import experts_read

BATCHES = (4, 16)
LAYERS, FIRST, LAST = 32, 4_096, 12_287
"""Layers, and the positions of the first and last token that are decoded."""
KV_BYTES = 4_096
ATTENTION, EXPERT = 83_951_616, 234_881_024
"""Bytes in a layer of what is always read, and of an expert of two matrices."""
HBM, LINK = 4_900e9, 450e9
TOKENS, LAYERS_LESS = 64, 8
"""Divisors of the scaled-down instances."""

each_batch = pytest.mark.parametrize("batch", BATCHES)


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a trace of gigabytes is made")

    monkeypatch.setattr("kvbound.workloads.make", refuse)


def full(batch: int) -> Instance:
    return kv.read_instance(f"paper-mixtral-b{batch}")


def reads_by_hand(batch: int) -> list[int]:
    """Reads of a slot in every step: ceil(0.4 (n + 1)) of every sequence, in integers."""
    return [batch * -(-2 * (n + 1) // 5) for n in range(FIRST, LAST + 1)]


def times_by_hand(batch: int, share_in_hbm: float | None) -> float:
    """Decode time where all slots split their KV alike: None in the fastest way, else so much from HBM."""
    weights = ATTENTION + float(experts_read(batch)) * EXPERT
    time = 0.0
    for reads in reads_by_hand(batch):
        size = reads * KV_BYTES
        if share_in_hbm is None:
            time += max(weights / HBM, (weights + size) / (HBM + LINK))
        else:
            time += max((weights + share_in_hbm * size) / HBM, (1 - share_in_hbm) * size / LINK)
    return LAYERS * time


@pytest.mark.usefixtures("no_trace")
@each_batch
def test_sizes_by_hand(batch: int) -> None:
    instance = full(batch)
    assert instance.read_counts().sum(axis=1).tolist() == [LAYERS * reads for reads in reads_by_hand(batch)]
    assert (instance.layers, instance.decode_steps) == (LAYERS, LAST - FIRST + 1)
    assert instance.prefill_tokens == batch * FIRST
    assert instance.timeline.tokens == batch * (LAST + 1)
    assert instance.timeline.outputs.tolist() == [batch] * instance.decode_steps
    assert set(instance.item_bytes.tolist()) == {KV_BYTES}
    assert instance.memory.tiers[0].capacity == 90 * 2**30
    assert instance.llm.weight_bytes == 93_400_000_000
    assert instance.capacity_units[0] == (90 * 2**30 - 93_400_000_000) // KV_BYTES == 790_225
    assert instance.memory.bandwidths.tolist() == [HBM, LINK, LINK, 500e9]


@pytest.mark.usefixtures("no_trace")
@each_batch
def test_ideal_and_slowest_times_by_hand(batch: int) -> None:
    """In no slot do births bind."""
    known = binding(full(batch))
    assert known is not None
    assert known.time_s == pytest.approx(times_by_hand(batch, None), rel=1e-8)
    assert known.slowest_s == pytest.approx(times_by_hand(batch, 0), rel=1e-8)


@pytest.mark.usefixtures("no_trace")
def test_placement_matters_from_a_batch_of_4_to_one_of_16() -> None:
    few, many = binding(full(4)), binding(full(16))
    assert few is not None
    assert many is not None
    assert few.slowest_s == pytest.approx(few.time_s, rel=1e-12)
    assert many.slowest_s == pytest.approx(1.241 * many.time_s, rel=5e-4)


@pytest.mark.usefixtures("no_trace")
def test_experts_of_three_matrices_leave_little_to_placement() -> None:
    reads = ATTENTION + float(experts_read(16)) * EXPERT * 1.5
    assert round(reads) == 2_874_274_493
    instance = kv.read_instance("paper-mixtral-b16", overrides={"llm.weight_read_bytes_per_layer": reads})
    known = binding(instance)
    assert known is not None
    assert known.slowest_s == pytest.approx(1.027 * known.time_s, rel=5e-4)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_experts_read_by_enumeration(tokens: int) -> None:
    choices = product(combinations(range(8), 2), repeat=tokens)
    distinct = [len(set().union(*chosen)) for chosen in choices]
    assert experts_read(tokens) == pytest.approx(np.mean(distinct), rel=1e-12)


@each_batch
def test_weights_read_are_those_of_the_experts(batch: int) -> None:
    expected = ATTENTION + float(experts_read(batch)) * EXPERT
    assert full(batch).llm.weight_reads.tolist() == [round(expected)] * LAYERS
    assert ATTENTION == 2 * (2 * 4096**2 + 2 * 4096 * 1024 + 8 * 4096)
    assert EXPERT == 2 * 2 * 4096 * 14336
    assert 2 <= experts_read(batch) <= min(8, 2 * batch)


@pytest.mark.parametrize(("batch", "logged", "recorded"), [(4, 0.9591, 5.0), (16, 0.8991, 7.7)])
def test_weights_are_about_the_share_that_the_authors_logged(
    batch: int, logged: float, recorded: float
) -> None:
    instance = full(batch)
    read = instance.read_counts() * KV_BYTES
    weights = instance.llm.weight_reads
    assert (weights / (weights + read)).mean() == pytest.approx(logged, abs=4e-3)
    recorded_weights = ATTENTION + recorded * EXPERT
    assert (recorded_weights / (recorded_weights + read)).mean() == pytest.approx(logged, abs=1e-3)


@each_batch
def test_the_studys_accounting_has_no_batches(batch: int) -> None:
    with pytest.raises(InputError, match="one birth in every step"):
        kv.read_instance(f"paper-mixtral-b{batch}", overrides={"rules.accounting": "fang2025"})


@pytest.mark.usefixtures("no_trace")
@each_batch
def test_best_known_values_lie_between_the_ideal_and_the_last_tier_alone(batch: int) -> None:
    """All KV in the last tier, never moved, is a schedule of any trace with these read counts."""
    row, known = best_known()[f"paper-mixtral-b{batch}"], binding(full(batch))
    assert known is not None
    assert row.bound_by == "ideal"
    assert row.bound_s == pytest.approx(known.time_s, rel=1e-12)
    assert known.time_s <= row.time_s <= known.slowest_s * (1 + 1e-4)
    assert row.status == ("optimal" if row.time_s <= known.time_s * (1 + 1e-4) else "feasible")


# --- at 1/64 of the tokens and 1/8 of the layers


def scaled(batch: int) -> Instance:
    """Bytes in proportion; only births weigh more."""
    llm = full(batch).llm
    share = LAYERS_LESS * TOKENS
    overrides = {
        "trace.synthetic.prefill_tokens": FIRST // TOKENS,
        "trace.synthetic.decode_steps": (LAST - FIRST + 1) // TOKENS,
        "trace.synthetic.layers": LAYERS // LAYERS_LESS,
        "llm.layers": LAYERS // LAYERS_LESS,
        "llm.weight_bytes": llm.weight_bytes / share,
        "llm.weight_read_bytes_per_layer": llm.weight_reads[0] / TOKENS,
        "memory.tiers.hbm.capacity": 90 * 2**30 // share,
    }
    return kv.read_instance(f"paper-mixtral-b{batch}", overrides=overrides)


SHA256 = {
    4: "02ed7d7fe9c6baa03f1b58fa4e7e8ebbf1646748d29612a151014d4389b072fc",
    16: "108c3b0a353bb1f713fac62ab8fd7d4578bee4bc715734efb86fd554eaa06bb3",
}


@each_batch
def test_scaled_instances_keep_their_hash(batch: int) -> None:
    assert scaled(batch).sha256 == SHA256[batch]


@each_batch
def test_scaled_instances_keep_the_ratios(batch: int) -> None:
    large, small = binding(full(batch)), binding(scaled(batch))
    assert large is not None
    assert small is not None
    assert small.time_s * TOKENS**2 * LAYERS_LESS == pytest.approx(large.time_s, rel=0.01)
    assert small.slowest_s / small.time_s == pytest.approx(large.slowest_s / large.time_s, rel=0.01)


@each_batch
def test_scaled_instances_are_solved_to_a_per_cent(batch: int) -> None:
    instance = scaled(batch)
    result = kv.solve(instance, "pricing", work=60)
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.gap is not None
    assert result.gap <= 0.01
    assert result.certificate is not None
    for report in (
        kv.check(instance, result),
        kv.check(instance, result.certificate, claimed_s=result.bound.time_s),
    ):
        assert report.ok, report.problems
    static = kv.simulate(instance, "static").time_s
    assert static is not None
    assert result.time_s is not None
    assert static >= result.time_s * (1.15 if batch == 16 else 1)
