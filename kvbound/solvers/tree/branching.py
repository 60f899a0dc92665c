"""Which question a node asks: of some that its relaxation leaves open, the one whose answers cost most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from kvbound.solvers.tree.questions import KINDS, Answer, Limits
from kvbound.solvers.tree.relaxation import NodeRelaxation, Point
from kvbound.tree import COUNT, TOUCH, Question

CANDIDATES, ROUNDS = 4, 8
"""Questions of each kind whose answers are tried at a time, the least decided first, and how many times."""
ITERATIONS = 100
"""Iterations of the simplex method in which an answer is tried."""
_ENOUGH = 0.1
"""Share of what is missing that the answers to a question must add, as a geometric mean, to try no more."""
_ASKED_AT_ONCE = COUNT, TOUCH
"""Kinds of questions that are asked as soon as one of their answers closes its leaf."""
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

    Most questions cost nothing if they are answered one way: a block that is not there is elsewhere. They
    lead nowhere, so that more are tried until both answers cost something. A number of reads, or a touch, of
    which one answer closes its leaf is asked at once: no leaf is added, and several such questions together
    may settle what a slot reads where.

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

    rounds = _rounds(relaxation, point, kinds)
    if not rounds:
        return None
    best = rounds[0][0] if len(rounds[0]) == 1 else _dearest(relaxation, point, rounds, cutoff, limits)
    return Branch(best, (relaxation.solve(limits(best, False)), relaxation.solve(limits(best, True))))


def _rounds(relaxation: NodeRelaxation, point: Point, kinds: Collection[int]) -> list[list[Question]]:
    """Return the questions to try, round by round: some of each kind, the least decided first."""
    by_kind = []
    for kind in kinds:
        open_ones = KINDS[kind].candidates(relaxation.program, point.values, relaxation.split)
        by_kind.append([question for _, question in sorted(open_ones, key=lambda each: (-each[0], each[1]))])
    starts = range(0, ROUNDS * CANDIDATES, CANDIDATES)
    rounds = [[question for each in by_kind for question in each[n : n + CANDIDATES]] for n in starts]
    return [each for each in rounds if each]


def _dearest(
    relaxation: NodeRelaxation,
    point: Point,
    rounds: Sequence[Sequence[Question]],
    cutoff: float,
    limits: Callable[[Question, bool], Limits],
) -> Question:
    """Return the question with the largest product, of those of the rounds until one is large enough.

    The first number or touch of which one answer reaches the cutoff is returned at once, and any question
    of which both do.
    """
    best, most, missing = rounds[0][0], -1.0, cutoff - point.objective
    least = _LEAST_GAIN * abs(point.objective)
    for candidates in rounds:
        for question in candidates:
            reached = [relaxation.estimate(limits(question, yes), ITERATIONS) for yes in (False, True)]
            gains = [min(each, cutoff) - point.objective for each in reached]
            product = math.prod(max(each, least) for each in gains)
            if product > most:
                best, most = question, product
            closed = (max if question.kind in _ASKED_AT_ONCE else min)(gains) >= missing
            if closed or time.perf_counter() >= relaxation.end:
                return question if closed else best
        if most >= (_ENOUGH * missing) ** 2:
            break
    return best
