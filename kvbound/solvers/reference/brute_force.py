"""Brute force: all joint placements of tiny instances, a reference that other solvers are tested against.

Dynamic programming over joint states, where a state is the tier of every block of every layer. Slot times
come from a direct minimisation over the split of reads, not from the package's cost model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, UsageError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status
from kvbound.rules import Initial, Migration
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.reference.blocks import Block, blocks_of, chunks_of, resident_reads
from kvbound.solvers.reference.passage import Passage, Slot
from kvbound.solvers.reference.slot_times import size_ratios, slot_times

MAX_TRANSITIONS = 2**25
"""Joint states times choices in one slot above which an instance is refused."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SlotTimes: TypeAlias = Callable[[Instance, Floats], NDArray[Any]]


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
        _slot(instance, blocks[layer], step, layer)
        for step, layer in np.ndindex(instance.decode_steps, instance.layers)
    ]
    together = instance.layers if instance.by_step else 1
    periods = [slots[n : n + together] for n in range(0, len(slots), together)]
    held = [_existing(of_layer, -1) for of_layer in blocks]
    possible = _fits(instance, blocks, held)
    if instance.rules.initial is Initial.PREFILL_FIRST:
        forced = np.zeros_like(possible)
        forced[_prefill_first(instance, blocks, held)] = True
        possible &= forced
    nothing = times(instance, np.zeros((1, 3, instance.tiers)))  # 0 of the type of all times
    value = np.where(possible, nothing[0], np.inf)
    passages = []
    for period, seconds in zip(periods, _seconds(instance, periods, times), strict=True):
        through = Passage(value, period, instance.tiers)
        through.add(seconds)
        for done, slot in enumerate(period, 1):
            held[slot.layer] = slot.after
            through.allow(_fits(instance, blocks, held), done)
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


def _existing(blocks: list[Block], step: int) -> list[int]:
    return [number for number, block in enumerate(blocks) if block.exists(step)]


def _refuse_large(instance: Instance, blocks: list[list[Block]]) -> None:
    if not instance.physical:
        raise UsageError("brute force needs accounting 'physical'")
    steps, tiers = range(instance.decode_steps), instance.tiers
    held = [max(len(_existing(of_layer, step)) for step in (-1, *steps)) for of_layer in blocks]
    changed = max(_count_changed(of_layer, step) for of_layer in blocks for step in steps)
    free = max(changed, *held)
    if instance.by_step:
        free = max(sum(_count_changed(of_layer, step) for of_layer in blocks) for step in steps)
    size = tiers ** (sum(held) + free)
    if size > MAX_TRANSITIONS or instance.layers * _base(instance) ** (3 * tiers) > 2**62:
        total = f"{sum(held)} blocks in {tiers} tiers"
        raise UsageError(f"{instance.name}: {total} are too many for brute force")


def _count_changed(blocks: list[Block], step: int) -> int:
    """Count the blocks that exist before a step or begin in it."""
    return len(_existing(blocks, step - 1)) + sum(block.born[0] == step for block in blocks)


def _base(instance: Instance) -> int:
    """A number larger than any count of tokens in a slot, chunks of weights counted as tokens."""
    chunks = max(sum(chunks_of(instance, layer)) for layer in range(instance.layers))
    return instance.workload.tokens + chunks * instance.granularity + 3


def _tiers(instance: Instance, blocks: int) -> Ints:
    """Tier of each block in each state of a layer, ``(states, blocks)``."""
    states = np.arange(instance.tiers**blocks)
    return states[:, None] // instance.tiers ** np.arange(blocks) % instance.tiers


def _fits(instance: Instance, blocks: list[list[Block]], held: list[list[int]]) -> NDArray[np.bool_]:
    """Which joint states of the blocks held in each layer respect every capacity; one axis per layer."""
    shape = [instance.tiers ** len(numbers) for numbers in held]
    fits = np.ones(shape, dtype=bool)
    for k, free in enumerate(_free_bytes(instance)):
        if free == math.inf:
            continue
        size = np.zeros(shape, dtype=np.int64)
        for layer, numbers in enumerate(held):
            copies_all = instance.inclusive and k == instance.tiers - 1
            sizes = np.array([_block_bytes(instance, layer, k, blocks[layer][n]) for n in numbers], np.int64)
            inside = np.ones((1, len(numbers))) if copies_all else _tiers(instance, len(numbers)) == k
            bytes_in_k = inside.astype(np.int64) @ sizes
            size += bytes_in_k.reshape([-1 if axis == layer else 1 for axis in range(len(held))])
        fits &= size <= free
    return fits


def _free_bytes(instance: Instance) -> list[float]:
    """Bytes of each tier that blocks may take, infinite without a limit."""
    sizes = [math.inf if tier.capacity is None else int(tier.capacity) for tier in instance.memory.tiers]
    resident = int(instance.llm.weight_bytes) - sum(
        sum(chunks_of(instance, layer)) * instance.granularity * size
        for layer, size in enumerate(instance.llm.kv_sizes)
    )
    return [size - (0 if k else resident) for k, size in enumerate(sizes)]


def _block_bytes(instance: Instance, layer: int, tier: int, block: Block) -> int:
    """Bytes that a block of a layer takes in a tier."""
    sizes = instance.formats.get(instance.memory.tiers[tier].name, instance.llm.kv_sizes)
    return (block.chunk or 1) * instance.granularity * (sizes[layer] if isinstance(sizes, tuple) else sizes)


def _prefill_first(instance: Instance, blocks: list[list[Block]], held: list[list[int]]) -> tuple[int, ...]:
    """State of the prompt filled block by block, layer by layer, into the fastest tier with room for each."""
    free = _free_bytes(instance)
    if instance.inclusive:
        free[-1] = math.inf  # it has copies of all blocks, which `_fits` counts
    state = [0] * instance.layers
    first = {block.tokens[0] for of_layer in blocks for block in of_layer}
    for head in sorted(first):
        for layer, numbers in enumerate(held):
            number = next((n for n in numbers if blocks[layer][n].tokens[0] == head), None)
            if number is None:
                continue
            block = blocks[layer][number]
            sizes = [_block_bytes(instance, layer, k, block) for k in range(instance.tiers)]
            open_tiers = [k for k, size in enumerate(sizes) if size <= free[k]]
            if not open_tiers:
                raise InfeasibleError(f"{instance.name}: the prompt does not fit into the tiers")
            free[open_tiers[0]] -= sizes[open_tiers[0]]
            state[layer] += open_tiers[0] * instance.tiers ** numbers.index(number)
    return tuple(state)


def _slot(instance: Instance, blocks: list[Block], step: int, layer: int) -> Slot:
    """Count the reads and writes of every change of a layer's state in a slot."""
    tiers = instance.tiers
    before, after = _existing(blocks, step - 1), _existing(blocks, step)
    passing = [n for n, block in enumerate(blocks) if block.born[0] == step and n not in after]
    columns = [*after, *passing]
    digit = _base(instance) ** np.arange(3 * tiers)
    reads_at, extra_at, writes_at = digit[:tiers], digit[tiers : 2 * tiers], digit[2 * tiers :]
    birth = writes_at.copy()
    if instance.inclusive:
        birth[:-1] += writes_at[-1]
    old, new = _tiers(instance, len(before)), _tiers(instance, len(columns))
    code, legal = np.zeros((len(old), len(new)), np.int64), np.ones((len(old), len(new)), bool)
    reads = set(instance.trace.reads(step, layer).tolist())
    for number in {*before, *columns}:
        block = blocks[number]
        lives = list(zip(block.tokens, block.born, block.ends, strict=True))
        past = [token for token, born, _ in lives if born < step]
        carried = [token for token, born, end in lives if born < step < end]
        births = sum(born == step for _, born, _ in lives)
        items = block.chunk * instance.granularity or 1
        read, unread = items * len(reads.intersection(past)), items * len(set(carried) - reads)
        if number not in columns:  # it ends
            source = old[:, before.index(number), None]
            code += read * reads_at[source] + births * birth[source]
            continue
        target = new[None, :, columns.index(number)]
        code += births * birth[target]
        if number not in before:  # it begins
            continue
        traffic, allowed = np.zeros((tiers, tiers), np.int64), np.zeros((tiers, tiers), bool)
        for a, b in np.ndindex(tiers, tiers):
            traffic[a, b] = read * reads_at[a]
            if a != b and not (instance.inclusive and b == tiers - 1):
                traffic[a, b] += unread * extra_at[a] + items * len(carried) * writes_at[b]
            allowed[a, b] = a == b or _may_move(instance, b < a, read)
        source = old[:, before.index(number), None]
        code += traffic[source, target]
        legal &= allowed[source, target]
    return Slot(step, layer, after, passing, np.where(legal, code * instance.layers + layer, -1))


def _may_move(instance: Instance, up: bool, read: int) -> bool:
    match instance.rules.migration:
        case Migration.NONE:
            return False
        case Migration.ON_READ:
            return not up or read > 0
        case Migration.PREFETCH:
            return True


def _seconds(instance: Instance, periods: list[list[Slot]], times: SlotTimes) -> Iterator[NDArray[Any]]:
    """Yield the times of each period by changes of state, inf where the rules forbid one.

    A period's axes are the changes of state of each of its slots.
    """
    counts = [_joint_counts(instance, period) for period in periods]
    rows, back = np.unique(np.concatenate([each for each, _ in counts]), axis=0, return_inverse=True)
    seconds, back = times(instance, rows.reshape(-1, 3, instance.tiers)), back.ravel()
    ends = np.cumsum([len(each) for each, _ in counts])
    for part, (_, allowed), period in zip(np.split(back, ends[:-1]), counts, periods, strict=True):
        shape = [slot.code.size for slot in period]
        yield np.where(allowed, seconds[part], np.inf).reshape(shape)


def _joint_counts(instance: Instance, period: list[Slot]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return bytes read, read without choice, and written for all changes, (n, 3K), and which are allowed."""
    total, allowed = np.zeros((1, 3 * instance.tiers)), np.ones(1, bool)
    for slot in period:
        counts = slot.code.reshape(-1, 1) // instance.layers
        digits = counts // _base(instance) ** np.arange(3 * instance.tiers) % _base(instance)
        loads = digits * float(instance.llm.kv_sizes[slot.layer])
        loads[:, instance.tiers] += resident_reads(instance, slot.layer) / size_ratios(instance)[0]
        total = (total[:, None] + loads).reshape(-1, loads.shape[1])
        allowed = (allowed[:, None] & (slot.code.ravel() >= 0)).ravel()
    return total, allowed


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
        prompt = _existing(of_layer, -1)
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
