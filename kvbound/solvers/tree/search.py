"""Best-first branch and bound over an instance's schedules, whose nodes prove their bounds by certificates.

Every node has multipliers as soon as it exists: what is open when the search ends are leaves like all others,
and the tree proves the least of their bounds.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from kvbound.certificate import Certificate
from kvbound.cost.evaluate import MOST_SPREAD, evaluate, spread
from kvbound.cost.slot import SlotCost
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.models.time_indexed import TimeIndexed
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Measures, Reason, Termination
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.rounding import claim_bound
from kvbound.solvers.tree.branching import choose
from kvbound.solvers.tree.multipliers import DualMultipliers
from kvbound.solvers.tree.paths import ClosedPaths
from kvbound.solvers.tree.questions import KINDS, Answer, Limits
from kvbound.solvers.tree.relaxation import NodeRelaxation, Point
from kvbound.tree import Question, Tree

PROOF = 1e-6
"""Relative gap at which a leaf is closed: integers never reach the optimum itself."""
MOST_LEAVES = 5_000
"""Leaves at which the search ends at the latest."""
MOST_STATES = 40_000
"""States of blocks up to which a tree is built."""
LEAST_S = 0.5
"""Seconds left from which a tree is begun."""
_NEAR = 1e-6
"""Distance from whole numbers up to which a relaxation's solution is a schedule."""
_EXACT = 1e-9
"""Relative loss from the program to its certificate that is taken for rounding."""
_FAR = (1.0, 1e2, 1e4, 1e6)
"""Steps along the dual ray of an infeasible node, in times of the best schedule."""


class Proof(NamedTuple):
    """Outcome of `prove`: the tree, the best schedule, and how the search ended."""

    tree: Tree
    known: tuple[Schedule, Measures]
    termination: Termination

    @property
    def complete(self) -> bool:
        """Whether the tree proves the schedule optimal."""
        return self.tree.bound_s >= self.known[1].value * (1 - PROOF)


def prove(
    instance: Instance,
    known: tuple[Schedule, Measures],
    *,
    end: float,
    work: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Proof | None:
    """Prove a schedule of a small instance optimal, or as much as time allows, and improve it on the way.

    Parameters
    ----------
    end
        `time.perf_counter` at which to stop.
    work
        Questions to ask at most, or None for no limit.

    Returns
    -------
    None if the program is too large, its times differ too much for a solver, or there is no time.
    """
    states = int(instance.grouping.held_counts.sum()) * (instance.tiers - 1)
    if states > MOST_STATES or spread(instance) > MOST_SPREAD or end - time.perf_counter() < LEAST_S:
        return None
    return TreeSearch(instance, known, end, work, seed, progress=progress).run()


@dataclass(eq=False)
class _Node:
    """A node: its parent's number and the answers on its path, its bound, and its multipliers."""

    parent: int
    answers: tuple[Answer, ...]
    bound_s: float
    certificate: Certificate
    question: Question | None = None


@dataclass(eq=False)
class TreeSearch:
    """A search and its state.

    Attributes
    ----------
    known
        The best schedule so far and its measures.
    kinds
        Kinds of questions that may be asked.
    nodes
        All nodes, parents before children.
    """

    instance: Instance
    known: tuple[Schedule, Measures]
    end: float = math.inf
    work: int | None = None
    seed: int = 0
    kinds: Collection[int] = tuple(KINDS)
    progress: Progress = silent
    nodes: list[_Node] = field(default_factory=list)

    def run(self) -> Proof:
        """Search until every leaf is closed, or time, work or an interrupt ends it.

        Raises
        ------
        KeyboardInterrupt
            There is no root yet.
        """
        begin, termination = time.perf_counter(), Termination()
        try:
            self._start()
            asked, heap = 0, [(self.nodes[0].bound_s, 0)]
            while heap[0][0] < self.cutoff_s:
                if time.perf_counter() >= self.end:
                    termination = Termination(Reason.LIMIT, Limit.TIME)
                    break
                if len(heap) >= MOST_LEAVES or (self.work is not None and asked >= self.work):
                    termination = Termination(Reason.LIMIT, Limit.WORK)
                    break
                children, asked = self._branch(heap[0][1]), asked + 1
                if not children and heap[0][0] >= self.cutoff_s:
                    continue  # the relaxation was a faster schedule
                if not children:
                    late = time.perf_counter() >= self.end
                    termination = Termination(Reason.LIMIT, Limit.TIME if late else Limit.SOLVER)
                    break
                heapq.heappop(heap)
                for child in children:
                    heapq.heappush(heap, (self.nodes[child].bound_s, child))
                self._show(begin, heap)
        except KeyboardInterrupt:
            if not self.nodes:
                raise
            termination = Termination(Reason.INTERRUPTED)
        return Proof(self._tree(), self.known, termination)

    @property
    def cutoff_s(self) -> float:
        """The bound from which a leaf is closed, in seconds."""
        return self.known[1].value * (1 - PROOF)

    def _show(self, begin: float, heap: list[tuple[float, int]]) -> None:
        gap = 1 - heap[0][0] / self.known[1].value
        note = f"proof: {len(heap)} leaves, gap {max(gap, 0.0):.2g}"
        if self.work is None and self.end < math.inf:
            self.progress(time.perf_counter() - begin, self.end - begin, note)
        else:
            self.progress(len(self.nodes), len(self.nodes) + sum(b < self.cutoff_s for b, _ in heap), note)

    def _start(self) -> None:
        """Make the root; if its relaxation fails, its bound is the ideal time."""
        self._program, split = TimeIndexed(self.instance), self._split()
        self._multipliers = DualMultipliers(self._program, self.instance, split)
        ideal = self._multipliers.ideal()
        self.nodes.append(_Node(-1, (), ideal.bound_s, ideal))
        self._relaxation = NodeRelaxation(self._program, split, seed=self.seed, end=self.end)
        self._paths = ClosedPaths(self.instance)
        point = self._relaxation.solve(Limits.of(self._program))
        if point is not None and point.values.size:
            self._adopt(point)
            node = self._node(-1, (), point, self.nodes[0])
            self.nodes[0] = node

    def _split(self) -> int:
        """Return the tier by whose reads to split slots: of those but 0 the one whose reads take longest."""
        share = list(self.known[1].hit_rate.values())
        busy = share * SlotCost.of(self.instance).of_time.read_costs.max(axis=1)
        return self.instance.tiers - 1 - int(busy[:0:-1].argmax())  # of equal ones the last

    def _branch(self, number: int) -> list[int]:
        """Let a leaf ask a question; return its children, none if its relaxation leaves none open."""
        node, program = self.nodes[number], self._program
        point = self._relaxation.solve(Limits.of(program, node.answers))
        if point is None or not point.values.size:
            return []
        self._adopt(point)
        cutoff = self.known[1].value / program.unit_s
        branch = choose(self._relaxation, point, node.answers, cutoff, self.kinds)
        if branch is None:
            return []
        children = []
        for yes, found in zip((False, True), branch.points, strict=True):
            answers = (*node.answers, (branch.question, yes))
            if found is not None and found.values.size:
                self._adopt(found)
            elif found is not None:
                found = replace(found, duals=point.duals)
            children.append(self._node(number, answers, found, node))
        self.nodes += children
        node.question = branch.question
        return [len(self.nodes) - 2, len(self.nodes) - 1]

    def _node(self, parent: int, answers: tuple[Answer, ...], point: Point | None, above: _Node) -> _Node:
        """Return a node with the multipliers of its relaxation, or with those of the node above.

        What bounds the node above bounds this one: it has fewer schedules.
        """
        limits = Limits.of(self._program, answers)
        inherited = _Node(parent, answers, above.bound_s, above.certificate)
        if limits.empty or math.isinf(self._paths.cost(above.certificate, limits.closed)):
            return replace(inherited, bound_s=math.inf)
        if point is None:
            return inherited
        best, time_s = inherited, self.known[1].value
        steps = [far * time_s / self._program.unit_s for far in _FAR] if point.ray.size else [0.0]
        reached = point.objective * self._program.unit_s * (1 - _EXACT)
        for far, as_reads in product(steps, (False, True)):
            at = point.along(point.duals, far) if far else point
            certificate = self._multipliers.certificate(at, limits, moves_as_reads=as_reads)
            items = self._paths.cost(certificate, limits.closed)
            claimed = claim_bound(self.instance, certificate, items, limits.of_slots)
            if claimed.bound_s > best.bound_s:
                best = _Node(parent, answers, claimed.bound_s, certificate)
            if best.bound_s >= min(self.cutoff_s, reached):
                break
        return best

    def _adopt(self, point: Point) -> None:
        """Keep the schedule of a relaxation if it is one, and faster than the best so far."""
        columns = self._program.x[self._program.x >= 0]
        distance = np.abs(point.values[columns] - np.rint(point.values[columns]))
        if distance.size and distance.max() > _NEAR:
            return
        try:
            schedule = self._program.schedule(point.values)
            measures = evaluate(self.instance, schedule)
        except KvboundError:  # columns that violate rows by a tolerance may not describe a schedule
            return
        if measures.value < self.known[1].value:
            self.known = schedule, measures

    def _tree(self) -> Tree:
        """Return the tree of all nodes so far."""
        # an interrupt may come between the two lines that add children
        nodes = [node for node in self.nodes if node.parent < 0 or self.nodes[node.parent].question]
        leaves = [node for node in nodes if node.question is None]
        given = {id(node.certificate): node.certificate for node in leaves}
        position = {key: n for n, key in enumerate(given)}
        number = [-1 if node.question is not None else position[id(node.certificate)] for node in nodes]
        asked = [(-1,) * len(Question._fields) if node.question is None else node.question for node in nodes]
        bound_s = min(self.known[1].value, *(node.bound_s for node in leaves))
        return Tree(
            self.instance.sha256,
            bound_s,
            parent=np.array([node.parent for node in nodes], np.int64),
            answer=np.array([int(node.answers[-1][1]) if node.answers else -1 for node in nodes]),
            questions=np.array(asked, np.int64),
            certificate=np.array(number, np.int64),
            certificates=tuple(given.values()),
        )
