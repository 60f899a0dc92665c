"""The dual bound with its certificate, certified: the independent checker has recomputed it."""

from __future__ import annotations

import time
from typing import Any

from kvbound.checker import check
from kvbound.cost import identify
from kvbound.errors import InfeasibleError, KvboundError
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status
from kvbound.solvers.dual import solve_dual


def solve_certified(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    seed: int = 0,
    sample: float | None = None,
    kernel: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Bound the decode time from below, and have the bound checked.

    Parameters
    ----------
    time_limit
        Seconds for tuning the multipliers; their evaluation and the check come on top.
    sample
        Share of the items to tune on; None lets the size decide.

    Returns
    -------
    Result
        Without a schedule; `certificate` proves the bound.

    Raises
    ------
    UsageError
        The accounting is not physical.
    KvboundError
        The checker rejects the certificate: a defect.
    """
    begin = time.perf_counter()
    about: dict[str, Any] = {"method": "dual", "seed": seed, "options": {"sample": sample}}
    try:
        bound, certificate = solve_dual(
            instance, time_limit=time_limit, seed=seed, sample=sample, kernel=kernel, progress=progress
        )
    except InfeasibleError:
        identity = identify(instance, with_trace=False)
        return Result(identity, status=Status.INFEASIBLE, wall_s=time.perf_counter() - begin, **about)
    report = check(instance.expanded(), instance.trace.rows, certificate.arrays(), claimed_s=bound.time_s)
    if not report.ok:
        raise KvboundError(f"the checker rejects the certificate: {report.problems[0]}")
    return Result(
        identify(instance),
        status=Status.UNKNOWN,
        bound=Bound(bound.time_s, BoundStatus.CERTIFIED, "dual"),
        wall_s=time.perf_counter() - begin,
        kernel=pick(kernel),
        certificate=certificate,
        **about,
    )
