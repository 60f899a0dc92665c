"""The dual bound, certified: the independent checker recomputes it from its certificate."""

from __future__ import annotations

import time
from typing import Any

from kvbound.certificate import Certificate
from kvbound.checker import check
from kvbound.errors import InputError, KvboundError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Reason, Result, Status, Termination
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.warm_start import refuse_infeasible
from kvbound.tree import Tree


def solve_certified(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    seed: int = 0,
    sample: float | None = None,
    resume: Certificate | None = None,
    work: int | None = None,
    kernel: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Bound the decode time from below, and have the bound checked.

    Parameters
    ----------
    time_limit
        Seconds for the ascent in the multipliers, excluding their evaluation and the check. An interrupt
        ends the ascent with the best multipliers so far, a second one the evaluation, a third the check.
    sample
        Share of the items evaluated in each iteration; None chooses it by the instance's size.
    resume
        A certificate of the instance to start from; the new bound is at least as high.
    work
        Iterations of the ascent, instead of a time limit; see `kvbound.solvers.solve`.

    Returns
    -------
    Result
        Without a schedule; `certificate` proves the bound.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The certificate to start from does not prove the bound it claims.
    KvboundError
        The checker rejects the certificate: a defect.
    """
    begin = time.perf_counter()
    options = {"sample": sample} | ({} if work is None else {"work": work})
    result_fields: dict[str, Any] = {"method": "dual", "seed": seed, "options": options}
    if refused := refuse_infeasible(instance, begin, result_fields):
        return refused
    outcome = maximize_dual(
        instance, time_limit=time_limit, seed=seed, sample=sample, resume=resume, work=work, kernel=kernel,
        progress=progress,
    )  # fmt: skip
    best = outcome.certificate
    if resume is None or resume.bound_s <= best.bound_s:
        bound = certify(instance, best)
    else:
        best, bound = resume, _certify_given(instance, resume)
    interrupted = bound.status is BoundStatus.CLAIMED
    return Result(
        identify(instance),
        status=Status.UNKNOWN,
        bound=bound,
        termination=Termination(Reason.INTERRUPTED) if interrupted else outcome.termination,
        wall_s=time.perf_counter() - begin,
        kernel=pick(kernel),
        certificate=best,
        **result_fields,
    )


def _certify_given(instance: Instance, certificate: Certificate) -> Bound:
    """Certify a given certificate: if it proves less than it claims, the input is at fault."""
    try:
        return certify(instance, certificate)
    except KvboundError as error:
        raise InputError("resume", "", f"a certificate that proves its bound: {error}") from None


def certify(instance: Instance, certificate: Certificate | Tree, method: str = "dual") -> Bound:
    """Have the checker recompute a bound that a method found; if interrupted, the bound is only claimed.

    Raises
    ------
    KvboundError
        The checker rejects the certificate: a defect.
    """
    status = BoundStatus.CERTIFIED
    try:
        report = check(instance.expanded(), instance.token_trace.arrays, certificate.arrays())
        if not report.ok:
            raise KvboundError(f"the checker rejects the certificate: {report.problems[0]}")
    except KeyboardInterrupt:
        status = BoundStatus.CLAIMED
    return Bound.of(instance, certificate.bound_s, status, method)
