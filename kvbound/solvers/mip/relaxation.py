"""The linear relaxation: a time lower bound without a schedule."""

from __future__ import annotations

import math
import time
from typing import Any

from kvbound.cost.ideal import ideal
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status
from kvbound.solvers.mip.highs import REJECTED, minimise
from kvbound.solvers.warm_start import refuse_infeasible


def solve_relaxation(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    seed: int = 0,
    cuts: bool = True,
    work: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Bound the decode time from below by the program without integrality.

    Parameters
    ----------
    time_limit
        Seconds. A relaxation that is not solved in time gives no bound; the bound is then the ideal time.
    cuts
        Add the count cuts, or the integer hull; see `kvbound.models`.
    work
        Thousands of simplex iterations, instead of a time limit; see `kvbound.solvers.solve`.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    begin = time.perf_counter()
    options = {"cuts": cuts} | ({} if work is None else {"work": work})
    fields: dict[str, Any] = {"method": "relax", "seed": seed, "options": options}
    if result := refuse_infeasible(instance, begin, fields):
        return result
    program = formulation(instance, cuts=cuts)
    left = max(time_limit - (time.perf_counter() - begin), 0.1)
    iterations = None
    if work is not None:
        left, iterations = math.inf, 1000 * work
    solved = minimise(
        program.matrix, integer=False, time_limit=left, work=iterations, seed=seed, progress=progress
    )
    least = ideal(instance)
    if solved.rejected:
        fields["options"][REJECTED] = solved.rejected
    relaxed = solved.bound * program.unit_s
    bound = Bound.of(
        instance, max(relaxed, least), BoundStatus.CLAIMED, "relax" if relaxed > least else "ideal"
    )
    return Result(
        identify(instance),
        status=Status.UNKNOWN,
        bound=bound,
        termination=solved.termination,
        wall_s=time.perf_counter() - begin,
        **fields,
    )
