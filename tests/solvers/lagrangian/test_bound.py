"""The dual bound holds, is at least the ideal, close to the relaxation, and proved by its certificate."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Lanes
from kvbound.certificate import Certificate
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.policies import POLICIES
from kvbound.progress import Progress
from kvbound.result import Limit, Reason, Termination
from kvbound.rules import Migration, Rules
from kvbound.simulation import simulate
from kvbound.solvers.lagrangian.bound import maximize_dual, solve_dual
from kvbound.solvers.mip.relaxation import solve_relaxation
from kvbound.solvers.reference.brute_force import find_optimum, solve_brute
from kvbound.trace import Trace, read_csv
from tests.paths import DATA
from tests.solvers.lagrangian.cases import bound, swaps
from tests.strategies import random_schedule, rule_combinations, tiny_instance, with_overlap

ATTENTION = DATA / "attention"


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_between_ideal_and_optimum(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng([ord(letter) for letter in str(rules)])
    instance = tiny_instance(rng, **rules)
    found = bound(instance, iterations=60, kernel="numpy")
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    assert ideal(instance) * (1 - 1e-9) <= found <= optimum * (1 + 1e-12)


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_between_ideal_and_optimum_where_tokens_come_and_go(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng([ord(letter) for letter in str(rules)])
    instance = with_overlap(rng, tiny_instance(rng, **rules, batch=True))
    optimum = find_optimum(instance).time_s
    for kernel in ("numpy", "numba"):
        found = solve_dual(instance, iterations=40, kernel=kernel)[0].time_s
        assert found is not None
        assert ideal(instance) * (1 - 1e-9) <= found <= optimum * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1))
@example(7_942_059)  # in one case every item read is read at the last tier
@settings(max_examples=25)
def test_no_schedule_is_faster(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng)
    found = bound(instance, iterations=30, kernel="numpy")
    assert found <= evaluate(instance, random_schedule(rng, instance)).time_s * (1 + 1e-12)


@pytest.mark.parametrize("migration", list(Migration))
def test_no_policy_is_faster(migration: Migration) -> None:
    instance = swaps(100, 12, migration=migration)
    found = bound(instance, iterations=200)
    for policy in POLICIES:
        result = simulate(instance, policy)
        assert result.time_s is not None
        assert found <= result.time_s * (1 + 1e-12)


@pytest.mark.parametrize("migration", ["on-read", "prefetch"])
def test_close_to_the_relaxation_and_never_above(migration: str) -> None:
    instance = swaps(60, 12, migration=migration)
    for integer in (False, True):
        relaxed = solve_relaxation(instance, cuts=integer).bound.time_s
        assert relaxed is not None
        found = bound(instance, integer_counts=integer, iterations=600)
        # with integer counts the slots' minima may be slightly above the count cuts
        assert relaxed * 0.995 <= found <= relaxed * (1 + (1e-3 if integer else 1e-7))


def test_recorded_attention(tmp_path: Path) -> None:
    """Top 15 %, capacity of 25 %, 64 GB/s: the relaxation is 1.2157 x ideal, with the count cuts 1.2622."""
    table = tmp_path / "trace.csv"
    table.write_bytes(gzip.decompress((ATTENTION / "trace_native512_seq1_top15.csv.gz").read_bytes()))
    recorded = read_csv(table)
    first = recorded.decode_steps - 64
    reads = [[recorded.reads(first + j, layer) for layer in range(recorded.layers)] for j in range(64)]
    trace = Trace.from_lists(recorded.prefill_tokens + first, reads)
    room = 0.25 * trace.layers * trace.tokens * 16384
    resources = {"hbm": 4900e9, "c2c_down": 64e9, "c2c_up": 64e9, "lpddr": 500e9}
    tiers = (
        Tier("hbm", room, ("hbm",), ("hbm",)),
        Tier("ext", None, ("c2c_down", "lpddr"), ("c2c_up", "lpddr")),
    )
    llm = Llm("tiny", trace.layers, 16384, 0, round(0.68 * 16384 * float(trace.past_counts().mean())))
    instance = Instance("recorded", Memory("gh200", resources, tiers), llm, Rules(), trace)
    least = ideal(instance)
    assert 1.260 * least <= bound(instance, iterations=700) <= 1.2623 * least
    assert 1.209 * least <= bound(instance, integer_counts=False, iterations=1500) <= 1.2158 * least


def test_kernels_agree() -> None:
    varied: list[dict[str, Any]] = [
        {},
        {"migration": "prefetch"},
        {"migration": "none"},
        {"initial": "prefill-first"},
    ]
    for rules in varied:
        instance = swaps(150, 20, **rules)
        slow, fast = (bound(instance, iterations=30, kernel=kernel) for kernel in ("numpy", "numba"))
        assert slow == pytest.approx(fast, rel=1e-12)


def test_same_seed_same_bytes() -> None:
    instance = swaps(1500, 20)
    runs = [
        solve_dual(instance, iterations=20, sample=0.1, seed=5, threads=threads)[1].arrays()
        for threads in (1, 2)
    ]
    for name, values in runs[0].items():
        assert np.array_equal(values, runs[1][name]), name


def test_a_sample_is_nearly_as_good() -> None:
    instance = swaps(4000, 30)
    all_items = bound(instance, iterations=150)
    sampled = bound(instance, iterations=150, sample=0.1)
    assert ideal(instance) < sampled
    assert sampled == pytest.approx(all_items, rel=0.02)


def test_new_samples_converge_to_the_bound_of_all_items() -> None:
    """The ascent would overfit to a single sample."""
    instance = swaps(4000, 30)
    bounds = [bound(instance, iterations=count, sample=0.05) for count in (50, 150, 450)]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] == pytest.approx(bound(instance, iterations=450), rel=0.01)


def test_the_ascent_goes_on_to_a_target_that_samples_overestimate() -> None:
    instance = swaps(1500, 20)
    target, evaluated = 1.3 * ideal(instance), list[float]()

    def note(done: float, total: float, text: str = "") -> None:
        if text.startswith("bound evaluated") and done == 0:
            evaluated.append(done)

    outcome = maximize_dual(instance, iterations=400, sample=0.1, incumbent_s=target, progress=note)
    assert outcome.certificate.bound_s >= target
    assert outcome.termination == Termination()
    assert len(evaluated) == 2


def tuned(instance: Instance, **options: Any) -> int:
    """The iterations that an ascent makes."""
    iterations = 0

    def count(done: float, total: float, text: str = "") -> None:
        nonlocal iterations
        iterations += text.startswith("tuned")

    maximize_dual(instance, progress=count, **options)
    return iterations


def test_the_default_number_of_iterations_falls_with_the_items_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = swaps(1500, 12)
    cells = instance.layers * instance.tokens * instance.decode_steps
    monkeypatch.setattr("kvbound.solvers.lagrangian.bound._DEFAULT_WORK", 40 * cells)
    monkeypatch.setattr("kvbound.solvers.lagrangian.bound._FEWEST", 20)
    assert tuned(instance) == 40
    assert tuned(instance, sample=1 / 6) == 240
    monkeypatch.setattr("kvbound.solvers.lagrangian.bound._FEWEST", 50)
    assert tuned(instance) == 50
    monkeypatch.setattr("kvbound.solvers.lagrangian.bound._MOST", 30)
    monkeypatch.setattr("kvbound.solvers.lagrangian.bound._FEWEST", 20)
    assert tuned(instance) == 30


@pytest.mark.parametrize(("sample", "stride"), [(0.1, 10), (0.03, 33), (0.2, 5), (0.3, 1), (1.0, 1)])
def test_a_share_of_the_items_is_drawn_and_above_a_fifth_all(
    sample: float, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    every = Lanes.sample

    def draw(instance: Instance, stride: int, generator: np.random.Generator) -> Lanes:
        drawn.append(stride)
        return every(instance, stride, generator)

    monkeypatch.setattr(Lanes, "sample", draw)
    maximize_dual(swaps(4000, 5), sample=sample, iterations=3)
    assert set(drawn) == {stride}


def stop_after(calls: int) -> Progress:
    count = iter(range(calls))

    def report(done: float, total: float, note: str = "") -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("calls", [0, 40])
@pytest.mark.parametrize("sample", [None, 0.1])
def test_interruption_keeps_the_best(calls: int, sample: float | None) -> None:
    instance = swaps(1500, 12)
    outcome = maximize_dual(instance, sample=sample, progress=stop_after(calls))
    assert outcome.termination == Termination(Reason.INTERRUPTED)
    assert outcome.certificate.bound_s >= ideal(instance) * (1 - 1e-9)
    assert check(instance.expanded(), instance.trace.rows, outcome.certificate.arrays()).ok


def test_interruption_evaluates_the_multipliers_so_far() -> None:
    def interrupt_once(done: float, total: float, note: str = "") -> None:
        if note.startswith("tuned") and done > 0.2 and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    stopped: list[float] = []
    instance = swaps(100, 12)
    outcome = maximize_dual(instance, iterations=200, progress=interrupt_once)
    assert outcome.termination == Termination(Reason.INTERRUPTED)
    assert outcome.certificate.bound_s > 1.05 * ideal(instance)


@pytest.mark.parametrize("sample", [None, 0.1])
def test_termination(sample: float | None) -> None:
    instance = swaps(1500, 12)
    done = maximize_dual(instance, sample=sample, iterations=20)
    assert done.termination == Termination()
    late = maximize_dual(instance, sample=sample, time_limit=0.0)
    assert late.termination == Termination(Reason.LIMIT, Limit.TIME)
    assert late.certificate.bound_s <= done.certificate.bound_s


@pytest.mark.parametrize("sample", [None, 0.1])
def test_resumes_from_a_certificate(sample: float | None) -> None:
    instance = swaps(1500, 12)
    first = maximize_dual(instance, iterations=100, sample=sample).certificate
    second = maximize_dual(instance, iterations=100, sample=sample, resume=first).certificate
    fresh = maximize_dual(instance, iterations=100, sample=sample).certificate
    assert second.bound_s > max(first.bound_s, fresh.bound_s)
    assert check(instance.expanded(), instance.trace.rows, second.arrays()).ok


def test_stops_at_the_gap_and_at_the_limit() -> None:
    instance = swaps(100, 12)
    notes: list[float] = []

    def note(done: float, total: float, text: str = "") -> None:
        notes.append(done)

    maximize_dual(instance, incumbent_s=2 * ideal(instance), gap=0.9, progress=note)
    assert len(notes) < 100
    notes.clear()
    maximize_dual(instance, time_limit=0.0, progress=note)
    assert len(notes) <= instance.layers + 1


def test_refuses_other_accountings_and_invalid_samples() -> None:
    instance = swaps(20, 3)
    with pytest.raises(UsageError, match="physical"):
        solve_dual(instance.with_rules(accounting="fang2025"))
    for sample in (0.0, 1.5, math.nan):
        with pytest.raises(UsageError, match="share"):
            solve_dual(instance, sample=sample)


def test_certificates_claim_less_than_they_prove() -> None:
    instance = swaps(50, 10)
    certificate = solve_dual(instance, iterations=50)[1]
    assert isinstance(certificate, Certificate)
    assert certificate.bound_s > 0
