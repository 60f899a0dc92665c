"""Which question a node asks: of some that its relaxation leaves open, the one whose answers cost most."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kvbound.solvers.tree.questions import KINDS, Answer, Limits
from kvbound.solvers.tree.relaxation import NodeRelaxation, Point
from kvbound.tree import Question

CANDIDATES = 4
"""Questions of each kind whose answers are tried, the least decided first."""
ITERATIONS = 100
"""Iterations of the simplex method in which an answer is tried."""
_LEAST_GAIN = 1e-9
"""Gain of an answer that costs nothing, relative to the node's objective."""


class Branch(NamedTuple):
    """A question, and the relaxations under the answers no and yes, None where one failed."""

    question: Question
    points: tuple[Point | None, Point | None]


def choose(
    relaxation: NodeRelaxation,
    point: Point,
    answers: Sequence[Answer],
    cutoff: float,
    kinds: Collection[int] = tuple(KINDS),
) -> Branch | None:
    """Return the question with the largest product of what its two answers add to the objective.

    Parameters
    ----------
    point
        The node's relaxation.
    cutoff
        Objective from which a node needs no question; more is worth nothing.
    kinds
        Kinds of questions to ask.

    Returns
    -------
    None if the relaxation answers all of them.
    """

    def limits(question: Question, yes: bool) -> Limits:
        return Limits.of(relaxation.program, (*answers, (question, yes)))

    candidates, best, most = _candidates(relaxation, point, kinds), None, -1.0
    least = _LEAST_GAIN * abs(point.objective)
    for question in candidates if len(candidates) > 1 else []:
        reached = [
            min(relaxation.estimate(limits(question, yes), ITERATIONS), cutoff) for yes in (False, True)
        ]
        gain = math.prod(max(each - point.objective, least) for each in reached)
        if not math.isnan(gain) and gain > most:
            best, most = question, gain
        if min(reached) >= cutoff or time.perf_counter() >= relaxation.end:
            break
    if best is None and candidates:
        best = candidates[0]
    if best is None:
        return None
    return Branch(best, (relaxation.solve(limits(best, False)), relaxation.solve(limits(best, True))))


def _candidates(relaxation: NodeRelaxation, point: Point, kinds: Collection[int]) -> list[Question]:
    found = list[Question]()
    for kind in kinds:
        open_ones = KINDS[kind].candidates(relaxation.program, point.values)
        open_ones.sort(key=lambda each: (-each[0], each[1]))
        found += [question for _, question in open_ones[:CANDIDATES]]
    return found
