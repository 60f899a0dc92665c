"""The dual bound with its certificate, certified: the independent checker has recomputed it."""

from __future__ import annotations

import time
from typing import Any

from kvbound.certificate import Certificate
from kvbound.checker import check
from kvbound.errors import InputError, KvboundError
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status, Termination, identify
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.warm_start import refuse_infeasible


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
        Seconds for tuning the multipliers; their evaluation and the check come on top. An interrupt ends
        the tuning with the best so far, another one the evaluation, another one the check.
    sample
        Share of the items to maximize_dual on; None lets the size decide.
    resume
        A certificate of the instance to go on from; what comes out proves no less.
    work
        Steps of the ascent, instead of a time limit; see `kvbound.solvers.solve`.

    Returns
    -------
    Result
        Without a schedule; `certificate` proves the bound.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The certificate to go on from does not prove what it claims.
    KvboundError
        The checker rejects the certificate: a defect.
    """
    begin = time.perf_counter()
    options = {"sample": sample} | ({} if work is None else {"work": work})
    about: dict[str, Any] = {"method": "dual", "seed": seed, "options": options}
    if nothing := refuse_infeasible(instance, begin, about):
        return nothing
    tuned = maximize_dual(
        instance, time_limit=time_limit, seed=seed, sample=sample, resume=resume, work=work, kernel=kernel,
        progress=progress,
    )  # fmt: skip
    best = tuned.certificate
    if resume is None or resume.bound_s <= best.bound_s:
        bound = certify(instance, best)
    else:
        best, bound = resume, _certify_given(instance, resume)
    cut = bound.status is BoundStatus.CLAIMED
    return Result(
        identify(instance),
        status=Status.UNKNOWN,
        bound=bound,
        termination=Termination("interrupted") if cut else tuned.termination,
        wall_s=time.perf_counter() - begin,
        kernel=pick(kernel),
        certificate=best,
        **about,
    )


def _certify_given(instance: Instance, certificate: Certificate) -> Bound:
    """Have a certificate from outside checked: that it proves less than it claims is no defect of ours."""
    try:
        return certify(instance, certificate)
    except KvboundError as error:
        raise InputError("resume", "", f"a certificate that proves its bound: {error}") from None


def certify(instance: Instance, certificate: Certificate) -> Bound:
    """Have the checker recompute a bound; if that is interrupted it is only claimed.

    Raises
    ------
    KvboundError
        The checker rejects the certificate: a defect.
    """
    status = BoundStatus.CERTIFIED
    try:
        report = check(instance.expanded(), instance.trace.rows, certificate.arrays())
        if not report.ok:
            raise KvboundError(f"the checker rejects the certificate: {report.problems[0]}")
    except KeyboardInterrupt:
        status = BoundStatus.CLAIMED
    return Bound(certificate.bound_s, status, "dual")
