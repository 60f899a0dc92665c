"""The questions of a tree: which of them a node's relaxation leaves open, and what the answers imply.

To add a kind: a `Kind` of two functions, and a line in KINDS. The checker has its own, in
`kvbound.checker.questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.models.time_indexed import NONE, TimeIndexed
from kvbound.solvers.lagrangian.slots.bounds import SlotLimits
from kvbound.tree import COUNT, STATE, TOUCH, Question

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Answer: TypeAlias = tuple[Question, bool]

WHOLE = 1e-5
"""Distance from a whole number up to which a value of the relaxation counts as one."""


@dataclass(eq=False)
class Limits:
    """What the answers on the path to a node leave of the program, of blocks' paths, and of slots' reads.

    Attributes
    ----------
    lower, upper
        Of the program's columns, (columns,).
    least, most
        The range of items that each slot reads at the split tier, moved from there or not, (steps, layers).
    serving
        Whether each tier serves reads of a slot, 1 or 0, or -1 where no answer says so, (K, steps, layers).
    closed
        By step, -1 for the start: layer, block and tier of the states that no path may lead through.
    """

    lower: Floats
    upper: Floats
    least: Ints
    most: Ints
    serving: NDArray[np.int8]
    closed: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, program: TimeIndexed, answers: Iterable[Answer] = ()) -> Limits:
        """Return the limits under some answers."""
        instance, matrix = program.instance, program.matrix
        most = instance.timed(instance.live_items[:-1] * instance.timed_units)
        most = np.broadcast_to(most, program.time.shape).copy()
        serving = np.full((instance.tiers, *most.shape), -1, np.int8)
        limits = cls(matrix.lower.copy(), matrix.upper.copy(), np.zeros_like(most), most, serving)
        for question, yes in answers:
            KINDS[question.kind].restrict(limits, program, question, yes)
        return limits

    @property
    def of_slots(self) -> SlotLimits:
        """What is known of slots."""
        return SlotLimits(self.least, self.most, self.serving)

    @property
    def empty(self) -> bool:
        """Whether the range of some slot is empty."""
        return bool((self.least > self.most).any())


class Kind(NamedTuple):
    """A kind of question.

    Attributes
    ----------
    restrict
        Adds what an answer implies to limits.
    candidates
        Returns the questions that a solution of the program, (columns,), gives no whole answer to, each with
        its distance from one, given the tier by whose reads slots are split.
    """

    restrict: Callable[[Limits, TimeIndexed, Question, bool], None]
    candidates: Callable[[TimeIndexed, Floats, int], list[tuple[float, Question]]]


def _close_states(limits: Limits, program: TimeIndexed, question: Question, yes: bool) -> None:
    """Close the tier, or all others."""
    _, step, layer, block, tier, _ = question
    column = program.x[step + 1, layer, block, tier]
    (limits.lower if yes else limits.upper)[column] = float(yes)
    closed = [(layer, block, k) for k in range(program.instance.tiers) if (k == tier) != yes]
    limits.closed.setdefault(step, []).extend(closed)


def _divided_states(program: TimeIndexed, values: Floats, _: int) -> list[tuple[float, Question]]:
    """Return the blocks that are in a tier in part; of steps that share a column the first."""
    known = program.x != NONE
    columns, first = np.unique(program.x[known], return_index=True)
    distance = np.abs(values[columns] - np.rint(values[columns]))
    divided = np.flatnonzero(distance > WHOLE)
    keys = np.argwhere(known)[first[divided]].tolist()
    return [
        (far, Question(STATE, step - 1, layer, block, tier))
        for far, (step, layer, block, tier) in zip(distance[divided].tolist(), keys, strict=True)
    ]


def _limit_count(limits: Limits, program: TimeIndexed, question: Question, yes: bool) -> None:
    """Raise the least number, or lower the largest."""
    slot = question.step, question.layer
    if yes:
        limits.least[slot] = max(int(limits.least[slot]), question.value + 1)
    else:
        limits.most[slot] = min(int(limits.most[slot]), question.value)


def _divided_counts(program: TimeIndexed, values: Floats, split: int) -> list[tuple[float, Question]]:
    """Return the slots that read a fractional number of items at the split tier."""
    reads = whole_counts(program, values, slice(0, 2), split)
    distance = np.abs(reads - np.rint(reads))
    return [
        (float(distance[step, layer]), Question(COUNT, step, layer, 0, split, int(reads[step, layer] // 1)))
        for step, layer in np.argwhere(distance > WHOLE).tolist()
    ]


def _touch(limits: Limits, program: TimeIndexed, question: Question, yes: bool) -> None:
    """Charge the tier's latency, or let it serve no reads."""
    slot = question.step, question.layer, question.tier
    (limits.lower if yes else limits.upper)[program.touched[slot]] = float(yes)
    limits.serving[question.tier, question.step, question.layer] = yes


def _touched_in_part(program: TimeIndexed, values: Floats, _: int) -> list[tuple[float, Question]]:
    """Return the tiers whose latency is charged in part."""
    if not program.coefficients.has_waits:
        return []
    part = values[program.touched]
    part = np.where(np.array([tier.latency for tier in program.instance.memory.tiers]) > 0, part, 0.0)
    part = np.where((program.coefficients.timed_sizes > 0)[None, :, None], part, 0.0)
    distance = np.abs(part - np.rint(part))
    return [
        (float(distance[step, layer, tier]), Question(TOUCH, step, layer, 0, tier))
        for step, layer, tier in np.argwhere(distance > WHOLE).tolist()
    ]


def whole_counts(program: TimeIndexed, values: Floats, part: slice | int, tier: int) -> Floats:
    """Return numbers of items at a tier, (steps, layers).

    Parameters
    ----------
    part
        0 for those served, 1 for those moved without a read, 2 for those written, or several of them.
    """
    traffic = values[program.traffic[:, :, part, tier]]
    total: Floats = traffic if isinstance(part, int) else traffic.sum(axis=-1)
    sizes = program.coefficients.timed_sizes  # 0 where a layer keeps no KV
    return total / np.where(sizes > 0, sizes, 1.0)


KINDS: dict[int, Kind] = {
    COUNT: Kind(_limit_count, _divided_counts),
    TOUCH: Kind(_touch, _touched_in_part),
    STATE: Kind(_close_states, _divided_states),
}
"""The kinds of questions by their numbers."""
