"""Brute force: all joint placements of tiny instances, a reference that other solvers are tested against.

Dynamic programming over joint states, where a state is the tier of every block of every layer. Slot times
come from a direct minimisation over the split of reads, not from the package's cost model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Initial, Instance, Migration
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status, identify
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.reference.slot_times import slot_times

MAX_TRANSITIONS = 2**25
"""Joint states times choices in one slot above which an instance is refused."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """The minimum decode time, in seconds, and a schedule that attains it."""

    time_s: float
    schedule: Schedule


@dataclass(frozen=True)
class _Slot:
    """The changes of state in one slot: by the state of its layer before (rows) and after it (columns)."""

    step: int
    layer: int
    code: Ints  # token counts and layer of the slot as one number, -1 where the rules forbid the change


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
        bound=Bound(optimum.time_s, BoundStatus.CLAIMED, "brute"),
        seed=seed,
        wall_s=time.perf_counter() - start,
        placement=optimum.schedule,
    )


def find_optimum(instance: Instance) -> Optimum:
    """Return the optimum of a tiny instance under ``physical`` accounting.

    Raises
    ------
    UsageError
        There are too many joint states, or the accounting is not ``physical``.
    InfeasibleError
        No schedule fits into the tiers.
    """
    _refuse_large(instance)
    slots = [
        _slot(instance, step, layer) for step, layer in np.ndindex(instance.decode_steps, instance.layers)
    ]
    costs = _seconds(instance, slots)
    blocks = [-(-instance.prefill_tokens // instance.granularity)] * instance.layers
    value = np.where(_fits(instance, blocks), 0.0, np.inf)
    if instance.rules.initial is Initial.PREFILL_FIRST:
        forced = np.full_like(value, np.inf)
        forced[_prefill_first(instance)] = 0.0
        value += forced
    came_from = []
    for slot, cost in zip(slots, costs, strict=True):
        blocks[slot.layer] += (instance.prefill_tokens + slot.step) % instance.granularity == 0
        through = np.moveaxis(value, slot.layer, -1)[..., None] + cost
        came_from.append(np.moveaxis(through.argmin(axis=-2), -1, slot.layer))
        value = np.moveaxis(through.min(axis=-2), -1, slot.layer)
        value[~_fits(instance, blocks)] = np.inf
    if not np.isfinite(value.min()):
        raise InfeasibleError(f"{instance.name}: no schedule fits into the tiers")
    state = [int(index) for index in np.unravel_index(value.argmin(), value.shape)]
    after = []
    for slot, source in zip(reversed(slots), reversed(came_from), strict=True):
        after.append(state[slot.layer])
        state[slot.layer] = int(source[tuple(state)])
    return Optimum(float(value.min()), _schedule(instance, state, after[::-1]))


def _refuse_large(instance: Instance) -> None:
    if not instance.physical:
        raise UsageError("brute force needs accounting 'physical'")
    size = instance.tiers ** (instance.blocks * (instance.layers + 1))
    if size > MAX_TRANSITIONS or instance.layers * _base(instance) ** (3 * instance.tiers) > 2**62:
        total = f"{instance.layers * instance.blocks} blocks in {instance.tiers} tiers"
        raise UsageError(f"{instance.name}: {total} are too many for brute force")


def _base(instance: Instance) -> int:
    return instance.tokens + 3  # more than any count of tokens in a slot


def _tiers(instance: Instance, blocks: int) -> Ints:
    """Tier of each block in each state of a layer, ``(states, blocks)``; the newest block is the last."""
    states = np.arange(instance.tiers**blocks)
    return states[:, None] // instance.tiers ** np.arange(blocks) % instance.tiers


def _fits(instance: Instance, blocks: list[int]) -> NDArray[np.bool_]:
    """Which joint states respect every capacity; one axis per layer."""
    shape = [instance.tiers**count for count in blocks]
    fits = np.ones(shape, dtype=bool)
    for k, capacity in enumerate(instance.capacity_blocks):
        held = np.zeros(shape, dtype=np.int64)
        for layer, count in enumerate(blocks):
            copies_all = instance.inclusive and k == instance.tiers - 1
            blocks_in_k = np.array([count]) if copies_all else (_tiers(instance, count) == k).sum(axis=1)
            held += blocks_in_k.reshape([-1 if axis == layer else 1 for axis in range(len(blocks))])
        if capacity is not None:
            fits &= held <= capacity
    return fits


def _prefill_first(instance: Instance) -> tuple[int, ...]:
    """State of the prompt filled token by token, layer by layer, into the fastest tier that is not full."""
    free = [math.inf if capacity is None else capacity for capacity in instance.capacity_blocks]
    if instance.inclusive:
        free[-1] = math.inf  # it has copies of all blocks, which `_fits` counts
    state = [0] * instance.layers
    for token in range(0, instance.prefill_tokens, instance.granularity):
        for layer in range(instance.layers):
            open_tiers = [k for k, left in enumerate(free) if left >= 1]
            if not open_tiers:
                raise InfeasibleError(f"{instance.name}: the prompt does not fit into the tiers")
            free[open_tiers[0]] -= 1
            state[layer] += open_tiers[0] * instance.tiers ** (token // instance.granularity)
    return tuple(state)


def _slot(instance: Instance, step: int, layer: int) -> _Slot:
    """Count the reads and writes of every change of a layer's state in a slot."""
    tiers, size, new = instance.tiers, instance.granularity, instance.prefill_tokens + step
    digit = _base(instance) ** np.arange(3 * tiers)
    reads_at, extra_at, writes_at = digit[:tiers], digit[tiers : 2 * tiers], digit[2 * tiers :]
    tier = _tiers(instance, -(-new // size))
    states = len(tier)
    code, legal = np.zeros((states, states), np.int64), np.ones((states, states), bool)
    reads = set(instance.trace.reads(step, layer).tolist())
    for block in range(tier.shape[1]):
        tokens = range(block * size, min((block + 1) * size, new))
        read = len(reads.intersection(tokens))
        traffic, allowed = np.zeros((tiers, tiers), np.int64), np.zeros((tiers, tiers), bool)
        for source, target in np.ndindex(tiers, tiers):
            traffic[source, target] = read * reads_at[source]
            if source != target and not (instance.inclusive and target == tiers - 1):
                traffic[source, target] += (len(tokens) - read) * extra_at[source] + len(tokens) * writes_at[
                    target
                ]
            allowed[source, target] = source == target or _may_move(instance, target < source, read)
        before, after = tier[:, block, None], tier[None, :, block]
        code += traffic[before, after]
        legal &= allowed[before, after]
    birth = writes_at.copy()
    if instance.inclusive:
        birth[:-1] += writes_at[-1]
    if new % size:  # the token belongs to a block that is there already
        code += birth[tier[:, -1]]
    else:  # the tier of the new block is the top digit of the state
        code = np.concatenate([code + writes for writes in birth], axis=1)
        legal = np.tile(legal, tiers)
    return _Slot(step, layer, np.where(legal, code * instance.layers + layer, -1))


def _may_move(instance: Instance, up: bool, read: int) -> bool:
    match instance.rules.migration:
        case Migration.NONE:
            return False
        case Migration.ON_READ:
            return not up or read > 0
        case Migration.PREFETCH:
            return True


def _seconds(instance: Instance, slots: list[_Slot]) -> Iterator[Floats]:
    """Yield the times of each slot by change of state, inf where the rules forbid it."""
    codes, back = np.unique(np.concatenate([slot.code.ravel() for slot in slots]), return_inverse=True)
    counts, layer = np.divmod(codes, instance.layers)
    digits = counts[:, None] // _base(instance) ** np.arange(3 * instance.tiers) % _base(instance)
    loads = (digits * instance.item_bytes).reshape(-1, 3, instance.tiers).astype(np.float64)
    loads[:, 1, 0] += instance.llm.weight_reads[layer]
    times = np.where(codes < 0, np.inf, slot_times(instance, loads))[back]
    ends = np.cumsum([slot.code.size for slot in slots])
    for slot, part in zip(slots, np.split(times, ends[:-1]), strict=True):
        yield part.reshape(slot.code.shape)


def _schedule(instance: Instance, start: list[int], after: list[int]) -> Schedule:
    """Return the schedule of a path of states; `after` holds the new state of each slot's layer."""
    size, prefill = instance.granularity, instance.prefill_tokens
    initial = np.zeros((instance.layers, prefill), dtype=np.uint8)
    events = []
    for layer, state in enumerate(start):
        now = _digits(instance, state, -(-prefill // size))
        initial[layer] = np.repeat(now, size)[:prefill]
        found: list[tuple[int, int, int]] = []
        for step, index in enumerate(after[layer :: instance.layers]):
            new = prefill + step
            then = _digits(instance, index, new // size + 1)
            found += [(step, b * size, then[b]) for b in range(len(now)) if then[b] != now[b]]
            found.append((step, new, then[new // size]))
            now = then
        events.append(LayerEvents.of(*zip(*found, strict=True)))
    return Schedule(initial, tuple(events))


def _digits(instance: Instance, state: int, blocks: int) -> list[int]:
    return [state // instance.tiers**block % instance.tiers for block in range(blocks)]
