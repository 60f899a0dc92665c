"""Which question a node asks: of some that its relaxation leaves open, the one whose answers cost most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kvbound.solvers.tree.questions import KINDS, Answer, Limits
from kvbound.solvers.tree.relaxation import NodeRelaxation, Point
from kvbound.tree import Question

CANDIDATES = 4
"""Questions of each kind whose answers are tried, the least decided first."""
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
    best, most = None, -1.0
    for question in _candidates(relaxation, point, kinds):
        solved = [
            relaxation.solve(Limits.of(relaxation.program, (*answers, (question, yes))))
            for yes in (False, True)
        ]
        reached = [point.objective if each is None else min(each.objective, cutoff) for each in solved]
        least = _LEAST_GAIN * abs(point.objective)
        gain = max(reached[0] - point.objective, least) * max(reached[1] - point.objective, least)
        if gain > most:
            best, most = Branch(question, (solved[0], solved[1])), gain
        if min(reached) >= cutoff:
            break
    return best


def _candidates(relaxation: NodeRelaxation, point: Point, kinds: Collection[int]) -> list[Question]:
    found = list[Question]()
    for kind in kinds:
        open_ones = KINDS[kind].candidates(relaxation.program, point.values)
        open_ones.sort(key=lambda each: (-each[0], each[1]))
        found += [question for _, question in open_ones[:CANDIDATES]]
    return found
