"""Trees prove no more than the optimum, and the optimum itself where they are complete."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.instance import Instance
from kvbound.models.time_indexed import TimeIndexed
from kvbound.progress import Progress
from kvbound.result import BoundStatus, Reason, Status
from kvbound.solvers.mip import highs
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.solvers.tree import branching
from kvbound.solvers.tree.questions import KINDS, Limits
from kvbound.solvers.tree.relaxation import NodeRelaxation
from kvbound.solvers.tree.search import PROOF, Proof, TreeSearch, prove
from kvbound.tree import COUNT, STATE, TOUCH, Question, read_tree, write_tree
from tests.latency_cases import seldom_waiting
from tests.paths import ROOT
from tests.solvers.mip.test_highs import FAULTS, faulty
from tests.strategies import (
    rule_combinations,
    tiny_instance,
    with_experts,
    with_formats,
    with_layers,
    with_placeable_weights,
)

TINY = sorted(path.stem for path in (ROOT / "instances" / "tiny").glob("*.json"))
SMALL = sorted(path.stem for path in (ROOT / "instances" / "small").glob("*.json"))
FLAT = "exclusive-prefetch-parallel-prefill-first-1-2"
"""Rules under which a drawn instance has a cut of writes whose slope is 0."""
HARD = {"swap-1x200-c53-b450", "swap-2x48-c30-b450", "swap-4x64-c30-b450", "swap-4x64-c53-b450"}
"""Instances whose trees take longer than a test may; the others of `small` are proved."""


def search(instance: Instance, *, work: int | None = 100, **options: object) -> Proof:
    """Search from the schedule of the first policy that fits."""
    for policy in ("belady", "static", "keep-last", "lookahead-one"):
        known = kv.simulate(instance, policy)
        if known.schedule is not None and known.measures is not None:
            return TreeSearch(instance, (known.schedule, known.measures), work=work, **options).run()  # type: ignore[arg-type]
    pytest.skip("no policy finds a schedule")


def has_latency(instance: Instance) -> bool:
    return any(tier.latency for tier in instance.memory.tiers)


def assert_proved(instance: Instance, proof: Proof, optimum: float | None) -> None:
    """The checker accepts the tree, its bound is not above the optimum, and meets it where it says so."""
    assert optimum is not None
    report = check(instance.expanded(), instance.token_trace.arrays, proof.tree.arrays())
    assert report.ok, report.problems
    assert report.bound_s is not None
    assert proof.tree.bound_s <= report.bound_s <= optimum * (1 + 1e-12)
    assert proof.complete or has_latency(instance)
    assert proof.complete == (proof.termination.reason is Reason.DONE)
    if proof.complete:
        assert proof.known[1].time_s == pytest.approx(optimum, rel=2 * PROOF)
        assert kv.evaluate(instance, proof.known[0]).time_s == proof.known[1].time_s


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_under_every_rule(rules: dict[str, object]) -> None:
    rng = np.random.default_rng(list("-".join(map(str, rules.values())).encode()))
    for batch in (False, True):
        instance = tiny_instance(rng, batch=batch, **rules)  # type: ignore[arg-type]
        assert_proved(instance, search(instance), solve_brute(instance).time_s)


@pytest.mark.parametrize("number", range(24))
def test_with_formats_and_layers_that_differ(number: int) -> None:
    rng = np.random.default_rng([21, number])
    instance = tiny_instance(rng, layers=1 + number % 2, batch=bool(rng.integers(2)))
    instance = with_layers(rng, instance) if number % 2 else with_formats(rng, instance)
    assert_proved(instance, search(instance), solve_brute(instance).time_s)


@pytest.mark.parametrize("number", range(12))
def test_with_four_tiers(number: int) -> None:
    rng = np.random.default_rng([22, number])
    instance = tiny_instance(rng, tiers=4, layers=1, granularity=1)
    assert_proved(instance, search(instance), kv.solve(instance, "exact", gap=1e-9, proof=False).time_s)


@pytest.mark.parametrize("number", range(12))
def test_with_weights_and_experts(number: int) -> None:
    rng = np.random.default_rng([23, number])
    instance = with_placeable_weights(rng, tiny_instance(rng, tiers=2, batch=bool(rng.integers(2))))
    instance = with_experts(rng, instance) if number % 2 else instance
    assert_proved(instance, search(instance), kv.solve(instance, "exact", gap=1e-9, proof=False).time_s)


def test_cuts_that_pay_for_reads_of_the_last_tier() -> None:
    """Reads there relieve tier 0; a certificate's split also counts moves, which must not be paid more."""
    rng = np.random.default_rng([9, 1686])
    rules = {name: rule for name, rule in rule_combinations()[1686 % 96].items() if name != "tiers"}
    instance = tiny_instance(rng, tiers=int(rng.integers(2, 5)), batch=bool(rng.integers(2)), **rules)
    instance = with_formats(rng, instance)
    assert_proved(instance, search(instance), solve_brute(instance).time_s)


def test_cuts_of_writes_without_slope() -> None:
    """They are told from cuts of reads: the writes are what the certificate must split."""
    rules = next(each for each in rule_combinations() if "-".join(map(str, each.values())) == FLAT)
    rng = np.random.default_rng(list(FLAT.encode()))
    tiny_instance(rng, batch=False, **rules)
    instance = tiny_instance(rng, batch=True, **rules)
    program = TimeIndexed(instance)
    assert [of_writes for *_, of_writes in program.cuts] == [True]
    assert search(instance).tree.leaves == 1


@pytest.mark.parametrize("name", TINY)
def test_all_tiny_instances_are_proved(name: str) -> None:
    instance = kv.read_instance(name)
    proof = search(instance)
    assert proof.complete
    assert_proved(instance, proof, solve_brute(instance).time_s)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name not in HARD])
def test_small_instances_are_proved(name: str) -> None:
    instance = kv.read_instance(name)
    result = kv.solve(instance, "exact")
    assert result.status is Status.OPTIMAL
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.gap is not None
    assert result.gap <= PROOF


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tiny-blocks-exclusive", STATE), ("swap-1x200-c53-b64", COUNT), ("tiny-latency", TOUCH)],
)  # with the others alone the gap stays open within as many questions
def test_each_kind_of_question_is_needed(name: str, kind: int) -> None:
    instance = kv.read_instance(name)
    known = kv.solve(instance, "exact", proof=False)
    assert known.schedule is not None
    assert known.measures is not None
    found = known.schedule, known.measures
    others = [each for each in KINDS if each != kind]
    with_it = TreeSearch(instance, found, work=12).run()
    without = TreeSearch(instance, found, work=12, kinds=others).run()
    assert with_it.complete
    assert without.tree.bound_s < with_it.tree.bound_s
    assert not without.complete
    assert check(instance.expanded(), instance.token_trace.arrays, without.tree.arrays()).ok


def optimal(instance: Instance) -> TreeSearch:
    """Return a search that begins at the optimum."""
    known = kv.solve(instance, "exact", gap=1e-7, proof=False)
    assert known.schedule is not None
    assert known.measures is not None
    return TreeSearch(instance, (known.schedule, known.measures), work=45)


def test_questions_are_tried_until_both_answers_cost_something(monkeypatch: pytest.MonkeyPatch) -> None:
    found = optimal(seldom_waiting(12, 5, 0.3))
    assert found.run().complete
    monkeypatch.setattr(branching, "ROUNDS", 1)
    few = TreeSearch(found.instance, found.known, work=45).run()
    assert not few.complete
    assert few.tree.bound_s < 0.99 * found.known[1].time_s


def test_what_closes_a_leaf_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of reads and touches, of which each alone costs nothing if it is answered the other way."""
    found = optimal(seldom_waiting(12, 5, 0.3))
    tried, estimate = [0], NodeRelaxation.estimate

    def count(self: NodeRelaxation, *given: Any) -> float:
        tried[-1] += 1
        return estimate(self, *given)

    monkeypatch.setattr(NodeRelaxation, "estimate", count)
    proof = found.run()
    assert proof.complete
    tried.append(0)
    monkeypatch.setattr(branching, "_ASKED_AT_ONCE", ())
    TreeSearch(found.instance, found.known, work=60).run()
    assert tried[0] < 0.7 * tried[1]


@pytest.mark.slow
def test_slots_are_split_by_the_reads_that_take_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest schedules read nothing at the last tier: its numbers of reads decide nothing."""
    instance = seldom_waiting(40, 16, 0.1)
    known = kv.solve(instance, "pricing", work=2000, gap=1e-7)
    assert known.schedule is not None
    assert known.measures is not None
    schedule = known.schedule, known.measures
    proof = TreeSearch(instance, schedule, work=60).run()
    assert proof.complete
    assert {each.tier for each in proof.tree.certificates} == {1}
    assert {tier for kind, *_, tier, _ in proof.tree.questions.tolist() if kind == COUNT} == {1}
    assert_proved(instance, proof, proof.known[1].time_s)
    monkeypatch.setattr(TreeSearch, "_split", lambda self: self.instance.tiers - 1)
    last = TreeSearch(instance, proof.known, work=30).run()
    assert proof.tree.leaves < 0.8 * last.tree.leaves
    assert not last.complete
    assert last.tree.bound_s < 0.999 * proof.known[1].time_s


@pytest.mark.parametrize("name", ["swap-1x24-c30-b64-exclusive", "swap-1x24-c30-b64-exclusive-prefetch"])
def test_a_gap_at_the_root_is_closed(name: str) -> None:
    """The relaxation is 0.9 % below the optimum; no certificate of its own could be above it."""
    instance = kv.read_instance(name)
    root, whole = (search(instance, work=work).tree for work in (0, 100))
    assert root.leaves == 1
    result = kv.solve(instance, "exact")
    assert result.time_s is not None
    assert root.bound_s < 0.992 * result.time_s
    assert whole.bound_s >= result.time_s * (1 - PROOF)
    assert (result.status, result.bound.status) == (Status.OPTIMAL, BoundStatus.CERTIFIED)
    assert result.proof is not None
    assert result.proof.bound_s == result.bound.time_s


def test_the_tree_finds_better_schedules() -> None:
    """From a policy's schedule it reaches the optimum without HiGHS's search."""
    instance = kv.read_instance("tiny-exclusive")
    worst = kv.simulate(instance, "static")
    assert worst.schedule is not None
    assert worst.measures is not None
    proof = TreeSearch(instance, (worst.schedule, worst.measures), work=100).run()
    assert proof.known[1].time_s == pytest.approx(6.5)
    assert proof.known[1].time_s < worst.measures.time_s


@pytest.mark.parametrize("work", [0, 1, 2, 5])
def test_whatever_ends_it_the_tree_is_valid(work: int) -> None:
    instance = kv.read_instance("tiny-three-exclusive")
    optimum = solve_brute(instance).time_s
    proof = search(instance, work=work)
    assert proof.tree.leaves == 1 + work
    report = check(instance.expanded(), instance.token_trace.arrays, proof.tree.arrays())
    assert report.ok
    assert proof.tree.bound_s <= (optimum or 0.0)
    assert proof.termination.limit == "work"


def test_time_ends_it() -> None:
    instance = kv.read_instance("tiny-three-exclusive")
    proof = search(instance, work=None, end=time.perf_counter())
    assert (proof.tree.leaves, proof.termination.limit) == (1, "time")
    assert kv.check(instance, proof.tree).ok


def test_without_time_or_room_for_it_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-on-read")
    known = kv.simulate(instance, "belady")
    assert known.schedule is not None
    assert known.measures is not None
    found = known.schedule, known.measures
    assert prove(instance, found, end=time.perf_counter() + 0.1) is None
    assert prove(instance, found, end=math.inf) is not None
    monkeypatch.setattr("kvbound.solvers.tree.search.MOST_STATES", 44)
    assert prove(instance, found, end=math.inf) is None
    result = kv.solve(instance, "exact")
    assert (result.proof, result.bound.status) == (None, BoundStatus.CLAIMED)
    assert kv.solve(instance, "exact", proof=False).proof is None


@pytest.mark.parametrize("after", range(1, 6))
def test_an_interrupt_leaves_a_valid_tree(after: int) -> None:
    calls = 0

    def interrupting(done: float, total: float, note: str = "") -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    instance = kv.read_instance("tiny-three-exclusive")
    progress: Progress = interrupting
    proof = search(instance, progress=progress)
    assert proof.termination.reason is Reason.INTERRUPTED
    assert proof.tree.leaves == 1 + after
    assert check(instance.expanded(), instance.token_trace.arrays, proof.tree.arrays()).ok


def test_the_same_work_makes_the_same_tree(tmp_path: Path) -> None:
    instance = kv.read_instance("swap-1x24-c30-b64-exclusive")
    files, result = (tmp_path / "one.npz", tmp_path / "two.npz"), kv.solve(instance, "exact", work=20)
    for file in files:
        result = kv.solve(instance, "exact", work=20)
        assert result.proof is not None
        write_tree(result.proof, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert result.proof is not None
    back = read_tree(files[0], instance)
    for name, values in result.proof.arrays().items():
        assert np.array_equal(back.arrays()[name], values)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", ["tiny-prefetch", "tiny-three-exclusive"])
def test_wrong_answers_of_highs_prove_nothing_wrong(
    name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = kv.read_instance(name)
    optimum = solve_brute(instance).time_s
    monkeypatch.setattr(highs, "SilentHighs", faulty(fault, 1000))  # type: ignore[arg-type]
    proof = search(instance, work=8)
    report = check(instance.expanded(), instance.token_trace.arrays, proof.tree.arrays())
    assert report.ok
    assert proof.tree.bound_s <= (optimum or 0.0) * (1 + 1e-12)
    assert proof.known[1].time_s >= (optimum or 0.0) * (1 - 1e-12)


def test_infeasible_leaves_are_closed_by_their_ray() -> None:
    """A slot must read less than any schedule lets it: the prices of room prove it."""
    instance = kv.read_instance("tiny-none")
    program = TimeIndexed(instance)
    relaxation = NodeRelaxation(program, instance.tiers - 1)
    none = [(Question(COUNT, step, 0, 0, 1, 0), False) for step in range(instance.decode_steps)]
    point = relaxation.solve(Limits.of(program, none))
    assert point is not None
    assert point.ray.size
    known = kv.simulate(instance, "belady")
    assert known.schedule is not None
    assert known.measures is not None
    started = TreeSearch(instance, (known.schedule, known.measures))
    started._start()
    root = started._relaxation.solve(Limits.of(program))
    assert root is not None
    found = started._node(0, tuple(none), point.along(root.duals, 0.0), started.nodes[0])
    assert found.bound_s > known.measures.time_s
