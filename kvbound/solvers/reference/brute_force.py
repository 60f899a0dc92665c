"""Brute force: all joint placements of tiny instances, a reference that other solvers are tested against.

Dynamic programming over joint states, where a state is the tier of every block of every layer. Slot times
come from a direct minimisation over the split of reads, not from the package's cost model.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, UsageError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status
from kvbound.rules import Initial
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.reference.blocks import Block, blocks_of
from kvbound.solvers.reference.changes import Slot, SlotTimes, base, period_times, slot_changes
from kvbound.solvers.reference.passage import Passage
from kvbound.solvers.reference.room import existing, fits, prefill_first
from kvbound.solvers.reference.slot_times import slot_times

MAX_TRANSITIONS = 2**25
"""Joint states times choices in one slot above which an instance is refused."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """The minimum decode time, in seconds, or objective, and a schedule that attains it."""

    time_s: float
    schedule: Schedule


def solve_brute(
    instance: Instance, *, time_limit: float = 60.0, seed: int = 0, progress: Progress = silent
) -> Result:
    """Solve a tiny instance by brute force; the bound is the optimum as computed here.

    Parameters
    ----------
    instance
        A tiny one under ``physical`` accounting.
    time_limit, seed, progress
        Accepted as in every method, but not needed: nothing is random, and the search takes seconds.

    Raises
    ------
    UsageError
        There are too many joint states, or the accounting is not ``physical``.
    """
    start = time.perf_counter()
    try:
        optimum = find_optimum(instance)
    except InfeasibleError:
        identity = identify(instance, with_trace=False)
        wall_s = time.perf_counter() - start
        return Result(identity, "brute", Status.INFEASIBLE, seed=seed, wall_s=wall_s)
    progress(1, 1, "brute")
    return Result(
        identify(instance),
        "brute",
        Status.OPTIMAL,
        measures=evaluate(instance, optimum.schedule),
        bound=Bound.of(instance, float(optimum.time_s), BoundStatus.CLAIMED, "brute"),
        seed=seed,
        wall_s=time.perf_counter() - start,
        placement=optimum.schedule,
    )


def find_optimum(instance: Instance, times: SlotTimes = slot_times) -> Optimum:
    """Return the optimum of a tiny instance under ``physical`` accounting.

    Parameters
    ----------
    times
        In place of `kvbound.solvers.reference.slot_times.slot_times`; `time_s` has the type of its numbers.

    Raises
    ------
    UsageError
        There are too many joint states, or the accounting is not ``physical``.
    InfeasibleError
        No schedule fits into the tiers.
    """
    blocks = [blocks_of(instance, layer) for layer in range(instance.layers)]
    _refuse_large(instance, blocks)
    slots = [
        slot_changes(instance, blocks[layer], step, layer)
        for step, layer in np.ndindex(instance.decode_steps, instance.layers)
    ]
    together = instance.layers if instance.by_step else 1
    periods = [slots[n : n + together] for n in range(0, len(slots), together)]
    held = [existing(of_layer, -1) for of_layer in blocks]
    possible = fits(instance, blocks, held)
    if instance.rules.initial is Initial.PREFILL_FIRST:
        forced = np.zeros_like(possible)
        forced[prefill_first(instance, blocks, held)] = True
        possible &= forced
    nothing = times(instance, np.zeros((1, 3, instance.tiers)))  # 0 of the type of all times
    value = np.where(possible, nothing[0], np.inf)
    passages = []
    for period, seconds in zip(periods, period_times(instance, periods, times), strict=True):
        through = Passage(value, period, instance.tiers)
        through.add(seconds)
        for done, slot in enumerate(period, 1):
            held[slot.layer] = slot.after
            through.allow(fits(instance, blocks, held), done)
        value = through.least()
        passages.append(through)
    if value.min() == math.inf:
        raise InfeasibleError(f"{instance.name}: no schedule fits into the tiers")
    state = [int(index) for index in np.unravel_index(value.argmin(), value.shape)]
    after = []
    for passage in reversed(passages):
        before, passing = passage.source(state)
        after += [(state[slot.layer], there) for slot, there in zip(passage.period, passing, strict=True)][
            ::-1
        ]
        state = before
    return Optimum(value.min(), _schedule(instance, blocks, slots, state, after[::-1]))


def _refuse_large(instance: Instance, blocks: list[list[Block]]) -> None:
    if not instance.physical:
        raise UsageError("brute force needs accounting 'physical'")
    steps, tiers = range(instance.decode_steps), instance.tiers
    held = [max(len(existing(of_layer, step)) for step in (-1, *steps)) for of_layer in blocks]
    changed = max(_count_changed(of_layer, step) for of_layer in blocks for step in steps)
    free = max(changed, *held)
    if instance.by_step:
        free = max(sum(_count_changed(of_layer, step) for of_layer in blocks) for step in steps)
    size = tiers ** (sum(held) + free)
    if size > MAX_TRANSITIONS or instance.layers * base(instance) ** (3 * tiers) > 2**62:
        total = f"{sum(held)} blocks in {tiers} tiers"
        raise UsageError(f"{instance.name}: {total} are too many for brute force")


def _count_changed(blocks: list[Block], step: int) -> int:
    """Count the blocks that exist before a step or begin in it."""
    return len(existing(blocks, step - 1)) + sum(block.born[0] == step for block in blocks)


def _schedule(
    instance: Instance,
    blocks: list[list[Block]],
    slots: list[Slot],
    start: list[int],
    after: list[tuple[int, int]],
) -> Schedule:
    """Return the schedule of a path of states.

    Parameters
    ----------
    start
        State of each layer at the start.
    after
        New state of each slot's layer, and that of the blocks that end in the step of their birth.
    """
    initial = np.full((instance.layers, instance.prefill_tokens), instance.tiers - 1, np.uint8)
    now: list[dict[int, int]] = []
    for row, of_layer, state in zip(initial, blocks, start, strict=True):
        prompt = existing(of_layer, -1)
        now.append(dict(zip(prompt, _digits(instance, state, len(prompt)), strict=True)))
        for number, tier in now[-1].items():
            row[[token for token in of_layer[number].tokens if token < row.size]] = tier
    events: list[list[tuple[int, int, int]]] = [[] for _ in now]
    for slot, (state, passing) in zip(slots, after, strict=True):
        then = dict(zip(slot.after, _digits(instance, state, len(slot.after)), strict=True))
        then |= zip(slot.passing, _digits(instance, passing, len(slot.passing)), strict=True)
        before, found, of_layer = now[slot.layer], events[slot.layer], blocks[slot.layer]
        found += [
            (slot.step, of_layer[number].tokens[0], tier)
            for number, tier in then.items()
            if before.get(number, tier) != tier
        ]
        tiers = before | then
        births = [
            (token, number)
            for number, block in enumerate(of_layer)
            for token, born in zip(block.tokens, block.born, strict=True)
            if born == slot.step
        ]
        found += [(slot.step, token, tiers[number]) for token, number in sorted(births)]
        now[slot.layer] = then
    return Schedule(initial, tuple(LayerEvents.of(*np.array(f, np.int64).reshape(-1, 3).T) for f in events))


def _digits(instance: Instance, state: int, blocks: int) -> list[int]:
    return [state // instance.tiers**block % instance.tiers for block in range(blocks)]
