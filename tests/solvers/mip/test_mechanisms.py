"""Mechanisms of the program and its search: each test fails without the one it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import kvbound as kv
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.models.coefficients import Coefficients, count_cuts, slot_cuts
from kvbound.models.intervals import Intervals
from kvbound.models.sparse import Floats, Ints, Matrix
from kvbound.result import Result, Termination
from kvbound.solvers.mip import disjunctive_cuts, fix_and_search, highs
from kvbound.solvers.mip.disjunctive_cuts import Slot, as_rows, cuttable_slots, deepest_cut
from kvbound.solvers.mip.exact import improve
from kvbound.solvers.mip.fix_and_search import Search
from kvbound.solvers.mip.highs import Relaxation, minimise
from kvbound.solvers.reference.brute_force import solve_brute


def random_reads(steps: int, prompt: int, variation: float, room: str, seed: int) -> Instance:
    """Two layers over a link of 450 GB/s, where the relaxation is close but not integer."""
    spec = {
        "kind": "random-swap", "layers": 2, "prefill_tokens": prompt, "decode_steps": steps, "seed": seed,
        "sparsity": 0.6, "variation": variation, "count_rule": "ceil(n)",
    }  # fmt: skip
    llm = {
        "name": "small", "layers": 2, "kv_bytes_per_token_layer": 16384, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 150_000,
    }  # fmt: skip
    links = {"memory.resources.c2c_down": "450GB/s", "memory.resources.c2c_up": "450GB/s"}
    return kv.make_instance(
        "random", memory="gh200-144", llm=llm, trace={"synthetic": spec}, overrides=links, capacity=room
    )


def time_of(result: Result) -> float:
    assert result.time_s is not None
    return result.time_s


def bound_of(result: Result) -> float:
    assert result.bound.time_s is not None
    return result.bound.time_s


def relaxed(instance: Instance, **options: Any) -> float:
    return bound_of(kv.solve(instance, "relax", work=100, **options))


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the search before HiGHS solves the complete program."""
    monkeypatch.setattr(Search, "_prove", lambda *_: None)


# Cuts


@pytest.mark.parametrize("name", ["tiny-prefetch", "tiny-exclusive-prefetch", "tiny-layers", "tiny-bursts"])
def test_integer_counts_close_most_of_the_gap(name: str) -> None:
    """The first two have the time-indexed form, the others the interval form."""
    instance = kv.read_instance(name)
    optimum = time_of(solve_brute(instance))
    plain, cut = (relaxed(instance, cuts=cuts) for cuts in (False, True))
    assert plain + 0.6 * (optimum - plain) < cut <= optimum * (1 + 1e-7)


@pytest.mark.parametrize("name", ["tiny-prefetch", "tiny-exclusive-prefetch"])
def test_count_cuts_are_the_hull_of_a_slots_time(name: str) -> None:
    """Each cut is a chord of the time of m misses without moves, and none is above that time."""
    instance = kv.read_instance(name)
    coefficients, cost = Coefficients.of(instance), SlotCost.of(instance)
    bends = 0
    for step, layer in np.ndindex(instance.decode_steps, instance.layers):
        reads = int(coefficients.read_counts[step, layer])
        misses, size = np.arange(reads + 1), instance.item_bytes[layer]
        q = np.zeros((reads + 1, 6))
        q[:, 0], q[:, 1], q[:, 2] = (reads - misses) * size, misses * size, instance.llm.weight_reads[layer]
        q[:, 5] = size if instance.inclusive else 0
        time = cost.times(q) / coefficients.unit_s
        cuts = count_cuts(coefficients, step, layer)
        for slope, constant in cuts:
            values = slope * misses + constant
            assert np.all(values <= time * (1 + 1e-9))
            assert np.count_nonzero(values >= time * (1 - 1e-9)) >= 2  # it is a chord
        bends += len(cuts)
    assert bends > 1


@pytest.mark.parametrize("name", ["tiny-exclusive-prefetch", "native-r15-c25-b64-n64-exclusive"])
def test_cuts_for_writes_are_chords_and_never_above_a_slots_time(name: str) -> None:
    """With exclusive copies, at any whole numbers of misses and of writes to the last tier."""
    instance = kv.read_instance(name)
    coefficients, cost = Coefficients.of(instance), SlotCost.of(instance)
    found = 0
    for step, layer in np.ndindex(min(instance.decode_steps, 5), instance.layers):
        size, births = instance.item_bytes[layer], int(instance.timeline.births[step])
        reads = int(coefficients.read_counts[step, layer])
        misses, writes = np.meshgrid(np.arange(min(reads, 8) + 1), np.arange(births + 6), indexing="ij")
        q = np.zeros((*misses.shape, 6))
        q[..., 0], q[..., 1], q[..., 5] = (reads - misses) * size, misses * size, writes * size
        q[..., 2], q[..., 4] = instance.llm.weight_reads[layer], np.maximum(births - writes, 0) * size
        time = cost.times(q) / coefficients.unit_s
        for row, constant in slot_cuts(coefficients, step, layer):
            value = (q / instance.item_bytes.max()) @ row + constant
            assert np.all(value <= time * (1 + 1e-9))
            if row[5]:
                found += 1
                assert np.count_nonzero(value[0] >= time[0] * (1 - 1e-9)) >= 2
    assert found > 2


def promoted(slot: Slot, stay: Ints) -> int:
    """Items that are promoted if these numbers of each class stay."""
    change = np.where(slot.begins, stay, -stay)
    groups = [change[slot.group == group].sum() for group in np.unique(slot.group[slot.group >= 0])]
    return int(sum(max(0, enter) for enter in groups))


def fractional_slots(name: str) -> Iterator[tuple[Slot, Floats]]:
    """Slots with few intervals, and the solution of the relaxation."""
    program = formulation(kv.read_instance(name))
    assert isinstance(program, Intervals)
    point = minimise(program.matrix, integer=False).values
    assert point is not None
    for slot in cuttable_slots(program):
        if math.prod(slot.size.astype(int) + 1) <= 3000:
            yield slot, point


@pytest.mark.parametrize("name", ["tiny-bursts", "tiny-prefill-first"])
def test_a_disjunctive_cut_is_tight_and_valid(name: str) -> None:
    """For all integer numbers of items that stay."""
    deepest = 0.0
    for slot, point in fractional_slots(name):
        cut = deepest_cut(slot, point)
        if cut is None:
            continue
        slack = []
        for stay in product(*(range(int(size) + 1) for size in slot.size)):
            number = np.array(stay)
            misses = slot.reads - number[~slot.begins].sum()
            counts = np.array([1, misses, promoted(slot, number)])
            time = float((slot.hull @ counts).max())
            slack.append(time + float((cut.values[:-1] * number).sum()) - cut.lower)
        assert min(slack) == pytest.approx(0.0, abs=1e-6)
        deepest = max(deepest, cut.violation(point))
    assert deepest > 0.1


@pytest.mark.parametrize("name", ["swap-2x48-c30-b450", "swap-1x200-c53-b64"])
def test_disjunctive_cuts_hold_for_schedules(name: str) -> None:
    instance = kv.read_instance(name)
    program = formulation(instance)
    assert isinstance(program, Intervals)
    relaxation = Relaxation(program.matrix)
    before = relaxation.solve(60.0)
    assert before.values is not None
    cuts = [cut for slot in cuttable_slots(program) if (cut := deepest_cut(slot, before.values)) is not None]
    relaxation.add(*as_rows(cuts))
    after = relaxation.solve(60.0)
    assert after.bound > before.bound * (1 + 2e-5)
    for policy in ("belady", "keep-last", "lru"):
        schedule = kv.simulate(instance, policy).schedule
        assert schedule is not None
        columns, values = program.start(schedule)
        point = minimise(program.matrix.with_fixed(columns, values), gap=1e-9).values
        assert point is not None
        assert max(cut.violation(point) for cut in cuts) < 1e-6


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("name", ["tiny-bursts", "random"])
def test_disjunctive_cuts_prove_the_optimum_before_any_branching(name: str) -> None:
    instance = random_reads(4, 8, 0.9, "50%", seed=3) if name == "random" else kv.read_instance(name)
    program = formulation(instance)
    optimum = minimise(program.matrix, gap=1e-9).objective * program.unit_s
    result = kv.solve(instance, "exact", work=1)
    assert relaxed(instance) < 0.995 * optimum
    assert bound_of(result) == pytest.approx(optimum, rel=1e-6)
    assert result.termination == Termination()


def test_cuts_stay_in_the_program_that_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    more: list[int] = []

    def prove(self: Search, matrix: Matrix, start: Floats) -> None:
        more.append(matrix.rows.shape[0] - self.program.matrix.rows.shape[0])

    rounds: list[int] = []
    plain = Relaxation.add

    def add(self: Relaxation, columns: Sequence[Ints], values: Sequence[Floats], lower: Floats) -> None:
        rounds.append(len(lower))
        plain(self, columns, values, lower)

    monkeypatch.setattr(Search, "_prove", prove)
    monkeypatch.setattr(Relaxation, "add", add)
    kv.solve(kv.read_instance("swap-1x200-c53-b64"), "exact", work=1)
    assert len(rounds) > 2
    assert more == [sum(rounds)]


def test_classes_that_stay_whole_are_added_up_in_the_linear_program_of_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = formulation(kv.read_instance("swap-2x48-c30-b450"))
    assert isinstance(program, Intervals)
    point = minimise(program.matrix, integer=False).values
    assert point is not None
    widths: list[int] = []
    plain = highs.row_duals

    def row_duals(cost: Floats, rows: sparse.csr_array, least: Floats) -> Floats:
        widths.append(len(cost))
        return plain(cost, rows, least)

    monkeypatch.setattr(disjunctive_cuts, "row_duals", row_duals)
    slots = cuttable_slots(program)
    cuts = [deepest_cut(slot, point) for slot in slots]
    assert len(cuts) - cuts.count(None) == len(widths) > 3
    assert np.mean(widths) < np.mean([len(slot.columns) for slot in slots])


# Classes and windows


def four_kinds(many: int) -> Instance:
    """Tokens of four kinds, the same number of each: read in steps 0 and 2, in 1 and 3, in all, never."""
    kinds = np.arange(4 * many).reshape(4, many)
    even, odd = [0, 2], [1, 2]
    reads = [[kinds[even if step % 2 == 0 else odd].ravel().tolist()] for step in range(4)]
    return kv.make_instance(
        "alike",
        memory="gh200-144",
        llm={
            "name": "one", "layers": 1, "kv_bytes_per_token_layer": 16384, "weight_bytes": 0,
            "weight_read_bytes_per_layer": 0,
        },
        trace={"prefill_tokens": 4 * many, "reads": reads},
        capacity="30%",
    )  # fmt: skip


def test_items_of_a_class_share_a_column() -> None:
    assert formulation(four_kinds(2)).matrix.columns == formulation(four_kinds(50)).matrix.columns


def test_items_in_tier_0_are_the_first_of_a_class_to_stay() -> None:
    """A schedule writes no more than the numbers of items that stay imply."""
    for name in ("tiny-on-read", "tiny-layers", "native-r15-c25-b64-n16"):
        program = formulation(kv.read_instance(name))
        solved = minimise(program.matrix, work=1)
        assert solved.values is not None
        measures = evaluate(program.instance, program.schedule(solved.values))
        assert measures.time_s <= solved.objective * program.unit_s * (1 + 1e-6)


def test_windows_overlap_and_cover_all_columns() -> None:
    program = formulation(kv.read_instance("swap-2x48-c30-b450"))
    assert isinstance(program, Intervals)
    columns = np.concatenate(program.y)
    parts = np.array([np.isin(columns, part) for part in program.windows(len(columns) // 4)])
    assert parts.any(axis=0).all()
    assert not parts.all(axis=1).any()
    short = np.concatenate([classes.until - classes.event == 1 for classes in program.layers])
    assert np.mean(parts[:, short].sum(axis=0) > 1) > 0.9


# The search


def test_the_search_continues_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a search, the result is the start if that is better than the policy's schedule."""
    instance = kv.read_instance("tiny-exclusive")
    best = solve_brute(instance)

    def interrupt(_: Instance) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvbound.solvers.mip.exact.formulation", interrupt)
    result = kv.solve(instance, "exact", start=best.schedule)
    assert time_of(result) == time_of(best) < 0.8 * time_of(kv.simulate(instance, "belady"))


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("name", ["tiny-no-weights", "native-r15-c25-b64-n16"])
def test_fixing_the_integer_part_leads_to_the_optimum(name: str) -> None:
    instance = kv.read_instance(name)
    result = kv.solve(instance, "exact", work=1)
    assert time_of(result) == pytest.approx(bound_of(result), rel=1e-4)
    assert time_of(result) < 0.9 * time_of(kv.simulate(instance, "belady"))


@pytest.mark.usefixtures("unproved")
def test_fixing_again_after_the_cuts_finds_better(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("swap-1x200-c53-b64")
    again = time_of(kv.solve(instance, "exact", work=1))
    monkeypatch.setattr(fix_and_search, "deepest_cut", lambda *_: None)
    assert again < time_of(kv.solve(instance, "exact", work=1)) * (1 - 1e-4)


@pytest.mark.usefixtures("unproved")
def test_neighbourhood_search_closes_a_gap_that_fixing_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is meant for thousands of intervals; this instance has hundreds."""
    instance = random_reads(24, 48, 0.4, "30%", seed=2)
    monkeypatch.setattr(fix_and_search, "deepest_cut", lambda *_: None)
    fixed = kv.solve(instance, "exact", work=1, gap=5e-4)
    assert fixed.termination != Termination()
    monkeypatch.setattr(fix_and_search, "WINDOW_COLUMNS", 60)
    searched = kv.solve(instance, "exact", work=1, gap=5e-4)
    assert searched.termination == Termination()
    assert time_of(searched) < time_of(fixed) * (1 - 2e-4)


@pytest.mark.usefixtures("unproved")
def test_neighbourhood_search_is_repeated_while_it_finds_better(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    windows = Intervals.windows

    def counted(self: Intervals, most: int) -> Iterator[Ints]:
        passes.append(most)
        return windows(self, most)

    monkeypatch.setattr(Intervals, "windows", counted)
    monkeypatch.setattr(fix_and_search, "deepest_cut", lambda *_: None)
    monkeypatch.setattr(fix_and_search, "WINDOW_COLUMNS", 40)
    kv.solve(random_reads(16, 32, 0.9, "50%", seed=2), "exact", work=1, gap=5e-4)
    assert passes == [40, 40]


HARD = (16, 32, 0.5, "50%", 5)
"""Reads of an instance that HiGHS does not prove optimal within one node."""


def passed_options(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> list[dict[str, Any]]:
    """Options of the integer programs passed to HiGHS."""
    calls: list[dict[str, Any]] = []

    def spy(matrix: Matrix, **options: Any) -> highs.Solved:
        calls.append(options)
        return minimise(matrix, **options)

    monkeypatch.setattr(fix_and_search, "minimise", spy)
    run()
    return calls


def test_the_proof_starts_from_the_best_schedule_and_has_a_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = kv.read_instance("swap-1x200-c53-b64")
    program = formulation(instance)
    *_, proof = passed_options(monkeypatch, lambda: kv.solve(instance, "exact", work=1, gap=1e-4))
    columns, values = proof["start"]
    best = minimise(program.matrix.with_fixed(columns, values), gap=1e-9)
    assert best.objective * program.unit_s < 0.99 * time_of(kv.simulate(instance, "belady"))
    assert proof["bound_only"]  # as the schedule is close to the bound
    assert best.objective * (1 - 1e-3) < proof["target"] < best.objective
    assert proof["work"] == 1


@pytest.mark.usefixtures("unproved")
def test_neighbourhood_search_starts_from_the_best_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fix_and_search, "deepest_cut", lambda *_: None)
    monkeypatch.setattr(fix_and_search, "WINDOW_COLUMNS", 60)
    instance = random_reads(24, 48, 0.4, "30%", seed=2)
    calls = passed_options(monkeypatch, lambda: kv.solve(instance, "exact", work=1, gap=5e-4))
    assert len(calls) > 2
    assert all("start" in options for options in calls[2:])


@pytest.mark.usefixtures("unproved")
def test_a_known_bound_ends_the_search() -> None:
    instance = kv.read_instance("tiny-latency")
    best = solve_brute(instance)
    assert best.schedule is not None
    assert best.measures is not None
    known = best.schedule, best.measures
    assert relaxed(instance) < 0.95 * time_of(best)
    for bound_s, reason in ((time_of(best), "done"), (0.0, "limit")):
        search = improve(instance, known, end=math.inf, gap=1e-3, bound_s=bound_s, work=1)
        assert (search.termination == Termination()) == (reason == "done")


# HiGHS


def test_highs_starts_from_the_start_and_stops_after_the_nodes() -> None:
    instance = random_reads(*HARD)
    program = formulation(instance)
    optimum = minimise(program.matrix, gap=1e-6)
    assert optimum.values is not None
    start = program.start(program.schedule(optimum.values))
    node = {"work": 1, "gap": 1e-6, "bound_only": True}
    alone = minimise(program.matrix, **node)  # type: ignore[arg-type]
    given = minimise(program.matrix, start=start, **node)  # type: ignore[arg-type]
    assert given.objective == pytest.approx(optimum.objective, rel=1e-5)
    assert alone.objective > optimum.objective * (1 + 1e-3)
    assert given.bound < optimum.bound * (1 - 1e-6)
    assert (given.termination.limit, optimum.termination.reason) == ("work", "done")


def test_a_relaxation_without_enough_iterations_proves_the_ideal_time() -> None:
    instance = kv.read_instance("swap-4x64-c53-b450")
    bound = kv.solve(instance, "relax", work=1).bound
    assert bound.method == "ideal"
    assert bound.time_s == pytest.approx(ideal(instance))


def test_a_target_ends_the_search_before_the_optimum_is_proved() -> None:
    program = formulation(kv.read_instance("three-1x24"))
    optimum = minimise(program.matrix)
    near = minimise(program.matrix, target=1.3 * optimum.objective)
    assert near.termination == Termination()
    assert optimum.objective * 1.001 < near.objective <= 1.3 * optimum.objective


def test_bound_only_switches_heuristics_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spy(highs.SilentHighs):
        def setOptionValue(self, name: str, value: object) -> object:
            chosen[name] = value
            return super().setOptionValue(name, value)

    monkeypatch.setattr(highs, "SilentHighs", Spy)
    matrix = formulation(kv.read_instance("tiny-on-read")).matrix
    efforts = []
    for bound_only in (False, True):
        chosen: dict[str, object] = {}
        minimise(matrix, bound_only=bound_only)
        efforts.append(chosen.get("mip_heuristic_effort"))
    assert efforts == [None, 0.0]
