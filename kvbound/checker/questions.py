"""The yes/no questions that a tree of proofs branches on, and what their answers leave to a leaf.

Every schedule answers each question in one way. A leaf's bound must hold for the schedules that give the
answers on its path only: no block's path may lead through a closed state, and every slot's number of reads
stays in its range. To add a kind of question: a class, and a line in KINDS.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case
from kvbound.checker.multipliers import Exact
from kvbound.checker.report import Ints


@dataclass(frozen=True)
class Question:
    """A question's numbers, as in the file; each kind uses some of them."""

    kind: int
    step: int
    layer: int
    block: int
    tier: int
    value: int


@dataclass
class Restrictions:
    """What the answers on the path to a leaf leave.

    Attributes
    ----------
    closed
        By layer and step, -1 for the start: pairs of a block and a tier that it is not in after the layer's
        slot.
    least, most
        By layer and step: the range of the number of items that the slot reads at the split tier, or moves
        from there without reading them.
    serving
        By layer and step: tiers, and whether each serves reads of the slot.
    """

    closed: dict[int, dict[int, list[tuple[int, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    least: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    most: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    serving: dict[int, dict[int, list[tuple[int, bool]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def states(self, layer: int) -> dict[int, Ints]:
        """Return the closed states of a layer, (states, 2) of block and tier, by step."""
        found = self.closed.get(layer, {})
        return {step: np.array(pairs, np.int64) for step, pairs in found.items()}

    def counts(self, layer: int, live: Exact) -> tuple[Exact, Exact]:
        """Return the least and the largest number of reads of a layer's slots, (steps,) each.

        `live` has the items that exist, which limit the numbers where no answer does, (steps,).
        """
        low, high = np.zeros(len(live), object), live.copy()
        for step, value in self.least.get(layer, {}).items():
            low[step] = value
        for step, value in self.most.get(layer, {}).items():
            high[step] = value
        return low, high

    def excluded(self, layer: int, reading: list[bool], steps: int) -> NDArray[np.bool_]:
        """Return in which slots of a layer these tiers and no others do not serve the reads, (steps,)."""
        found = np.zeros(steps, np.bool_)
        for step, answers in self.serving.get(layer, {}).items():
            found[step] = any(reading[tier] != yes for tier, yes in answers)
        return found


class Kind(Protocol):
    """A kind of question."""

    def expected(self, case: Case, question: Question, split: int) -> str:
        """Return what a valid question would have, or nothing if it is valid.

        `split` is the tier by whose reads the certificates of the leaves divide slots.
        """
        ...

    def restrict(self, case: Case, question: Question, yes: bool, within: Restrictions) -> None:
        """Add what an answer implies."""
        ...


class State:
    """Is the block in the tier after the layer's slot, or at the start for step -1?"""

    def expected(self, case: Case, question: Question, split: int) -> str:
        """Return what is wrong: the block must have a tier then."""
        life, step, block = case.lives[question.layer], question.step, question.block
        if not 0 <= question.tier < len(case.names):
            return "a tier of the memory"
        if not 0 <= block < len(life.head):
            return "a block of the layer"
        begin, last = int(life.begin[block]), int(life.last[block])
        written = begin == step == last >= 0  # it ends in the slot in which it is written to a tier
        return "" if begin <= step < last or written else "a block that exists after the slot"

    def restrict(self, case: Case, question: Question, yes: bool, within: Restrictions) -> None:
        """Close the tier, or all others."""
        states = within.closed[question.layer][question.step]
        for tier in range(len(case.names)):
            if (tier == question.tier) != yes:
                states.append((question.block, tier))


class Count:
    """Does the slot read more than `value` items at the tier, or move them from there without a read?"""

    def expected(self, case: Case, question: Question, split: int) -> str:
        """Return what is wrong: the certificates must count the reads of this tier."""
        if question.step < 0 or question.layer >= case.timed_layers:
            return "a slot"
        return "" if question.tier == split else "the tier by which slots are split"

    def restrict(self, case: Case, question: Question, yes: bool, within: Restrictions) -> None:
        """Raise the least number, or lower the largest."""
        layer, step, value = question.layer, question.step, question.value
        if yes:
            least = within.least[layer]
            least[step] = max(least.get(step, value + 1), value + 1)
        else:
            most = within.most[layer]
            most[step] = min(most.get(step, value), value)


class Touch:
    """Does the tier, which has a latency, serve reads of the slot?

    A slot's time is the least over the sets of tiers that may serve its reads: each of the two answers leaves
    a part of the sets.
    """

    def expected(self, case: Case, question: Question, split: int) -> str:
        """Return what is wrong: only sets of tiers with latencies are told apart, where there is KV."""
        if question.step < 0 or question.layer >= case.timed_layers:
            return "a slot"
        if not (0 <= question.tier < len(case.names) and case.latency[question.tier] > 0):
            return "a tier with a latency"
        kept = case.by_step or case.units[question.layer][0] > 0
        return "" if kept else "a layer with KV"

    def restrict(self, case: Case, question: Question, yes: bool, within: Restrictions) -> None:
        """Leave the sets with the tier, or those without it."""
        within.serving[question.layer][question.step].append((question.tier, yes))


KINDS: tuple[Kind, ...] = (State(), Count(), Touch())
"""The kinds by their numbers in the file."""


def invalid(case: Case, question: Question, split: int) -> str:
    """Return what a question should have had, or nothing if it is valid."""
    if not 0 <= question.kind < len(KINDS):
        return f"a kind from 0 to {len(KINDS) - 1}"
    if not 0 <= question.layer < case.layers:
        return "a layer"
    if not -1 <= question.step < case.steps:
        return "a step"
    return KINDS[question.kind].expected(case, question, split)
