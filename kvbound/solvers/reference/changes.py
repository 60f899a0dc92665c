"""The changes of state in a slot, for brute force: which the rules allow, and what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.rules import Migration
from kvbound.solvers.reference.blocks import Block, chunks_of, resident_reads
from kvbound.solvers.reference.room import existing, tiers_of_states
from kvbound.solvers.reference.slot_times import size_ratios

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SlotTimes: TypeAlias = Callable[[Instance, Floats], NDArray[Any]]


@dataclass(frozen=True)
class Slot:
    """The changes of state in one slot.

    A state of a layer is the tier of each block, the first in the lowest digit. Rows are the states of the
    blocks before the slot; columns those of the blocks after it, followed by the blocks that end in the step
    of their birth.
    """

    step: int
    layer: int
    after: list[int]  # blocks that exist after the slot
    passing: list[int]  # blocks that end in the step of their birth
    code: Ints  # token counts and layer of the slot as one number; -1 where the rules forbid the change


def base(instance: Instance) -> int:
    """A number larger than any count of tokens in a slot, chunks of weights counted as tokens."""
    chunks = max(sum(chunks_of(instance, layer)) for layer in range(instance.layers))
    return instance.workload.tokens + chunks * instance.granularity + 3


def slot_changes(instance: Instance, blocks: list[Block], step: int, layer: int) -> Slot:
    """Count the reads and writes of every change of a layer's state in a slot."""
    tiers = instance.tiers
    before, after = existing(blocks, step - 1), existing(blocks, step)
    passing = [n for n, block in enumerate(blocks) if block.born[0] == step and n not in after]
    columns = [*after, *passing]
    digit = base(instance) ** np.arange(3 * tiers)
    reads_at, extra_at, writes_at = digit[:tiers], digit[tiers : 2 * tiers], digit[2 * tiers :]
    birth = writes_at.copy()
    if instance.inclusive:
        birth[:-1] += writes_at[-1]
    old, new = tiers_of_states(instance, len(before)), tiers_of_states(instance, len(columns))
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


def period_times(instance: Instance, periods: list[list[Slot]], times: SlotTimes) -> Iterator[NDArray[Any]]:
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
        digits = counts // base(instance) ** np.arange(3 * instance.tiers) % base(instance)
        loads = digits * float(instance.llm.kv_sizes[slot.layer])
        loads[:, instance.tiers] += resident_reads(instance, slot.layer) / size_ratios(instance)[0]
        total = (total[:, None] + loads).reshape(-1, loads.shape[1])
        allowed = (allowed[:, None] & (slot.code.ravel() >= 0)).ravel()
    return total, allowed
