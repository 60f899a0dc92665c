"""The published annealing (arXiv 2508.13231) of the window and share of the ``sa-guided`` policy."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import numpy as np

from kvbound.arithmetic import exp
from kvbound.errors import UsageError
from kvbound.fang2025.adapter import simulate_published
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Reason, Result, Status, Termination

EVALUATIONS = 8
"""Default number of simulations; the study takes 40 on slices of its trace."""
COOLING = 0.95
"""Factor of the temperature per evaluation."""
INITIAL_NS = 100.0
"""Initial temperature."""
WINDOW_STEP, SHARE_STEP = 3, 0.3
"""Largest changes to a neighbour."""
LEAST_SHARE = 0.1


class State(NamedTuple):
    """Options of the policy: steps it looks ahead, and the share of the candidates that it promotes."""

    window: int
    topk: float

    def neighbour(self, rng: np.random.Generator) -> State:
        """Return a random neighbour."""
        window = max(1, self.window + int(rng.integers(-WINDOW_STEP, WINDOW_STEP, endpoint=True)))
        topk = float(np.clip(self.topk + rng.uniform(-SHARE_STEP, SHARE_STEP), LEAST_SHARE, 1.0))
        return State(window, topk)


START = State(5, 0.5)


def solve_published(
    instance: Instance, evaluations: int, time_limit: float, seed: int, kernel: str | None, progress: Progress
) -> Result:
    """Anneal window and share as the study does; a repeated state is not simulated again.

    A worse state is accepted with probability exp(-delta / T), where T falls from 100 ns by 5 % per
    evaluation. As totals differ by much more, this practically never happens.

    Raises
    ------
    UsageError
        `evaluations` is below 1.
    """
    if evaluations < 1:
        raise UsageError(f"annealing needs at least 1 evaluation, not {evaluations}")
    begin, rng = time.perf_counter(), np.random.default_rng(seed)
    known: dict[State, Result] = {}
    current, ended, temperature = START, Termination(), INITIAL_NS
    try:
        for n in range(evaluations):
            state = current.neighbour(rng) if n else START
            draw = rng.random()
            if state not in known:
                fields = {"method": "sa-guided", "seed": seed, "options": state._asdict()}
                known[state] = simulate_published(
                    instance, "sa-guided", fields, kernel, silent, time.perf_counter()
                )
            if known[state].status is Status.INFEASIBLE:
                break
            worse = _ns(known[state]) - _ns(known[current])
            current = state if worse < 0 or draw < float(exp(np.array(-worse / temperature))) else current
            temperature *= COOLING
            best = min(known.values(), key=_ns)
            progress(n + 1, evaluations, f"best {best.time_s:.6g} s")
            if n + 1 < evaluations and time.perf_counter() - begin >= time_limit:
                ended = Termination(Reason.LIMIT, Limit.TIME)
                break
    except KeyboardInterrupt:
        if not known:
            raise
        ended = Termination(Reason.INTERRUPTED)
    best = min(known.values(), key=_ns)
    wall_s = time.perf_counter() - begin
    if best.status is Status.INFEASIBLE:
        return dataclasses.replace(best, method="anneal", options={"evaluations": evaluations}, wall_s=wall_s)
    options = {**best.options, "evaluations": len(known)}
    return dataclasses.replace(best, method="anneal", options=options, termination=ended, wall_s=wall_s)


def _ns(result: Result) -> float:
    return 1e9 * (result.time_s or 0.0)
