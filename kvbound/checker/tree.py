"""Recompute the time lower bound that a tree of certificates proves.

An inner node asks a yes/no question, and its two children take the two answers, so that every schedule
belongs to a leaf: to the one whose answers it gives. A leaf has the multipliers of a certificate, whose bound
is recomputed for the schedules that give these answers. What no schedule of any leaf undercuts, no schedule
does: the least of the leaves' bounds.

Nodes come after their parents. A tree in this form has one root and no cycle.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kvbound.checker.arrays import Source, array, load
from kvbound.checker.certificate import price_of_room, seconds, unit_of, unproved
from kvbound.checker.conclusion import prefill_first
from kvbound.checker.inputs import Case, Rows, check_identity, read_case
from kvbound.checker.multipliers import (
    MOST,
    Multipliers,
    bound_name,
    largest,
    priced_capacities,
    read_multipliers,
)
from kvbound.checker.paths import sum_of_paths
from kvbound.checker.questions import KINDS, Question, Restrictions, invalid
from kvbound.checker.report import Ints, Refused, Report
from kvbound.checker.slot_minima import live_units, sum_of_slots, together

SCHEMA = "kvbound.tree/1"
MOST_NODES = 1 << 20
"""The largest number of nodes that is read."""
_QUESTION = ("kind", "step", "layer", "block", "tier", "value")


@dataclass(frozen=True)
class _Tree:
    """The nodes, each array (nodes,), and the certificates of leaves.

    Attributes
    ----------
    parent
        Number of each node's parent, a smaller one; -1 for node 0, the root.
    answer
        Answer to the parent's question, 0 for no and 1 for yes.
    questions
        Of the inner nodes.
    certificate
        Number of each leaf's certificate; -1 for inner nodes.
    """

    parent: Ints
    answer: Ints
    questions: Mapping[int, Question]
    certificate: Ints
    multipliers: tuple[Multipliers, ...]

    def leaves(self) -> Iterator[tuple[int, list[tuple[Question, bool]]]]:
        """Yield every leaf, and the questions and answers on its path."""
        for node in np.flatnonzero(self.certificate >= 0).tolist():
            path, at = [], node
            while at:
                answer, at = bool(self.answer[at]), int(self.parent[at])
                path.append((self.questions[at], answer))
            yield node, path


def check_tree(
    expanded: Mapping[str, Any], rows: Rows, tree: Source, *, claimed_s: float | None = None
) -> Report:
    """Verify the form of a tree, recompute all its leaves' bounds, and compare the least with the claim.

    Parameters
    ----------
    expanded
        The expanded instance.
    rows
        Per layer the packed read sets, uint8 ``(steps, 8 * ceil(tokens / 64))``, lowest bit first; None where
        the expanded instance says that reads are dense.
    tree
        The npz file or its arrays.
    claimed_s
        A bound claimed elsewhere, in seconds.
    """
    sha256, problems = None, list[str]()
    try:
        case = read_case(expanded, rows)
        sha256 = case.sha256
        arrays = load(tree)
        problems = check_identity(arrays, case, SCHEMA, "physical")
        claim = float(array(arrays, bound_name(case), "float64"))
        found = _read(case, arrays)
        limits = [priced_capacities(case, given) for given in found.multipliers]
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    bound_s, bounds = sys.float_info.max, _Bounds(case)
    for node, path in found.leaves():
        within = Restrictions()
        for question, yes in path:
            KINDS[question.kind].restrict(case, question, yes, within)
        number = int(found.certificate[node])
        bound_s = min(bound_s, bounds.of_leaf(found.multipliers[number], limits[number], within))
    problems += unproved(bound_s, claim, claimed_s, unit=unit_of(case))
    return Report(SCHEMA, tuple(problems), sha256, bound_s=bound_s, time_alone=case.objective.time_alone)


class _Bounds:
    """What the bounds of leaves of an instance have in common."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._forced = prefill_first(case) if case.rules["initial"] == "prefill-first" else None
        self._rows = [case.rows(layer) for layer in range(case.layers)]
        self._reads = [case.past_reads(layer) for layer in range(case.layers)]

    def of_leaf(self, given: Multipliers, limits: Mapping[int, int], within: Restrictions) -> float:
        """Return the bound of the schedules within restrictions, in seconds; infinite if there are none."""
        case, total = self._case, -price_of_room(given, limits)
        for layer in range(case.layers):
            start = None if self._forced is None else self._forced[layer]
            states = within.states(layer)
            items = sum_of_paths(case, given, layer, self._rows[layer], start, states)
            if items is None:
                return np.inf
            total += items
        for layer, of in enumerate(together(case)):
            counts = within.counts(layer, live_units(case, of))
            excluded = partial(within.excluded, layer, steps=case.steps)
            slots = sum_of_slots(case, given, of, [self._reads[n] for n in of], counts, excluded)
            if slots is None:
                return np.inf
            total += slots
        return seconds(total, given.scale)


def _read(case: Case, arrays: Mapping[str, Any]) -> _Tree:
    """Read a tree and verify its form.

    Raises
    ------
    Refused
        It is not a tree of questions and answers whose leaves have certificates.
    """
    parent = array(arrays, "parent", "int64", -1, most=MOST_NODES)
    answer = array(arrays, "answer", "int64", parent.size)
    numbers = [array(arrays, name, "int64", parent.size) for name in _QUESTION]
    leaf = array(arrays, "certificate", "int64", parent.size)
    split = int(array(arrays, "split", "int64"))
    multipliers = tuple(_certificates(case, arrays, split))
    inner = leaf < 0
    problem = _wrong_form(parent, answer, inner)
    if not problem and (leaf.max() >= len(multipliers) or leaf.min() < -1):
        problem = f"certificates numbered from 0 to {len(multipliers) - 1}, or -1 for an inner node"
    if problem:
        raise Refused(f"the tree is malformed: expected {problem}")
    questions = {}
    for node in np.flatnonzero(inner).tolist():
        questions[node] = Question(*(int(values[node]) for values in numbers))
        if problem := invalid(case, questions[node], split):
            raise Refused(f"the tree is malformed: expected {problem} in the question of node {node}")
    return _Tree(parent, answer, questions, leaf, multipliers)


def _wrong_form(parent: Ints, answer: Ints, inner: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    """Return what a tree would have that these nodes lack, or nothing if they are one."""
    if not parent.size or parent[0] != -1:
        return "a root, node 0, whose parent is -1"
    below, nodes = parent[1:], np.arange(1, parent.size)
    if wrong := np.flatnonzero((below < 0) | (below >= nodes)).tolist():
        return (
            f"every other node after its parent, but the parent of node {wrong[0] + 1} is {below[wrong[0]]}"
        )
    if np.any((answer[1:] < 0) | (answer[1:] > 1)):
        return "answers 0 and 1"
    children = np.stack([np.bincount(below[answer[1:] == yes], minlength=parent.size) for yes in (0, 1)])
    wrong = np.flatnonzero((children != inner).any(axis=0)).tolist()
    if wrong:
        return f"one child for each answer at inner nodes and none at leaves, but not so at node {wrong[0]}"
    return ""


def _certificates(case: Case, arrays: Mapping[str, Any], split: int) -> Iterator[Multipliers]:
    """Read and validate the certificates of leaves, one after the other."""
    scales = array(arrays, "scale", "int64", -1, most=MOST_NODES)
    tiers, resources, slots = len(case.names), len(case.resources), (case.steps, case.layers)
    timed = case.steps, case.timed_layers
    four, sets = "whole_writes" in arrays, 1 << int((case.latency > 0).sum())
    shapes = {
        "scale": (), "capacity": (tiers, 1 + case.steps * case.layers), "prices": (3 * tiers, *slots),
        "whole": timed, "theta": (sets * (4 if four else 2), resources, *timed),
        **({"whole_writes": timed} if four else {}),
    }  # fmt: skip
    stacks = {name: array(arrays, name, "int64", scales.size, *shape) for name, shape in shapes.items()}
    for n in range(scales.size):
        one = {name: np.asarray(stack[n]) for name, stack in stacks.items()}
        given = read_multipliers(case, one | {"tier": np.int64(split), bound_name(case): np.float64(0)})
        if largest(case, given) >= MOST // 2:  # above that are the prices of closed states
            raise Refused("a certificate is malformed: expected numbers of a path below 2**61")
        yield given
