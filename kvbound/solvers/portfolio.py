"""Which method runs when: `solve` runs one, `run_all` several, and the default picks by size."""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
from collections.abc import Iterable
from typing import Any, TypeAlias

from kvbound import arguments
from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.errors import KvboundError, UsageError
from kvbound.instance import Instance
from kvbound.models import columns
from kvbound.policies import POLICIES, Policy, is_file, is_policy, make_policy
from kvbound.progress import Progress, silent
from kvbound.residency import Residency
from kvbound.result import Result, Status, share_bound
from kvbound.schedule import Schedule
from kvbound.simulation import PUBLISHED, simulate
from kvbound.solvers.registry import METHODS, load_method, refuse_options

MOST_COLUMNS = 20_000
"""Up to this size the exact model is tried unless something else is asked for."""


GAP = 0.01
"""Beyond it, a relative gap to the certified bound that is good enough unless another is asked for."""


BOUNDS = ("best", "ideal")
"""The time of a placement without constraints; under fang2025 accounting `best` is that study's number."""


Methods: TypeAlias = "Iterable[Policy | type[Any] | str] | Policy | type[Any] | str"


_PRICED = 0.6
"""Share of the time for pricing before annealing."""


ALL = (*POLICIES, "best", *METHODS)
"""What ``all`` stands for where methods are listed."""


def solve(
    instance: Instance,
    method: Policy | type[Any] | str | None = None,
    *,
    time_limit: float | str = 60.0,
    gap: float | str | None = None,
    seed: int = 0,
    start: Schedule | Residency | None = None,
    work: int | None = None,
    kernel: str | None = None,
    record: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Run one method on one instance.

    Parameters
    ----------
    method
        A name of METHODS, or a policy as `kvbound.simulate` takes it; None takes `exact` where the model
        is small, else `pricing` and, if that leaves a gap, `anneal`.
    time_limit
        Seconds of wall time, or text such as ``"5min"``.
    gap
        Relative gap to stop at, or text such as ``"1%"``; None is the method's own.
    start
        A schedule to start from, for methods that can use one.
    work
        How much to do, instead of a time limit: steps of the ascent for `dual` and `pricing`, moves per stay
        for `anneal` (evaluations under fang2025 accounting), nodes of the search for `exact`, thousands of
        simplex iterations for `relax`. The result is then the same to the last bit whatever the kernel, the
        processor and the number of threads; of `exact` and `relax` for the same build of HiGHS. Policies and
        `brute` need no limit.
    record
        As for `kvbound.simulate`.
    options
        The method's own.

    Raises
    ------
    UsageError
        The method is unknown or does not fit the instance or the options.
    """
    arguments.instance(instance)
    limit, gap = arguments.seconds("time_limit", time_limit), arguments.share("gap", gap)
    seed = arguments.count("seed", seed, 0)
    work = None if work is None else arguments.count("work", work, 1)
    if "sample" in options:
        options["sample"] = arguments.share("sample", options["sample"])
    if method is None:
        return _default(
            instance, limit, gap, start,
            work=work, seed=seed, kernel=kernel, record=record, progress=progress,
        )  # fmt: skip
    common = {name: value for name, value in (("start", start), ("gap", gap)) if value is not None}
    if is_policy(method) or method in BOUNDS:
        refuse_options(method if isinstance(method, str) else make_policy(method).name, common, ())
        return simulate(
            instance, method, seed=seed, kernel=kernel, record=record, progress=progress, **options
        )
    assert isinstance(method, str)
    solver = load_method(method)
    options |= common
    if work is not None and "work" in inspect.signature(solver).parameters:
        options["work"] = work
    if "kernel" in inspect.signature(solver).parameters:
        options["kernel"] = kernel
    refuse_options(method, options, inspect.signature(solver).parameters)
    result: Result = solver(instance, time_limit=limit, seed=seed, progress=progress, **options)
    return result


def _default(
    instance: Instance,
    time_limit: float,
    gap: float | None,
    start: Schedule | Residency | None,
    work: int | None,
    **common: Any,
) -> Result:
    common["work"] = work
    if not instance.physical:
        results = run_all(instance, time_limit=time_limit, **common)
        found = [result for result in results if result.status is Status.FEASIBLE]
        return min(found, key=lambda result: result.time_s or 0.0) if found else results[0]
    if _small(instance):
        return solve(instance, "exact", time_limit=time_limit, gap=gap, start=start, **common)
    end, wanted = time.perf_counter() + time_limit, GAP if gap is None else gap
    priced = solve(instance, "pricing", time_limit=_PRICED * time_limit, gap=wanted, start=start, **common)
    left = end - time.perf_counter()
    enough = priced.gap is None or priced.gap <= wanted or priced.termination.reason == "interrupted"
    schedule = priced.schedule or priced.residency
    late = work is None and left < 1
    if enough or schedule is None or late or spread(instance) > MOST_SPREAD:
        return priced
    try:
        annealed = solve(
            instance,
            "anneal",
            time_limit=left,
            gap=wanted,
            start=schedule,
            bound_s=priced.bound.time_s,
            **common,
        )
    except KvboundError as error:  # a failure here must not lose the schedule already found
        return dataclasses.replace(priced, options={**priced.options, "anneal": str(error)})
    return dataclasses.replace(annealed, bound=priced.bound, certificate=priced.certificate)


def default_methods(instance: Instance) -> list[str]:
    """What `compare` runs unless told otherwise: every policy, the ideal, and the solver for the size."""
    if not instance.physical:
        return list(PUBLISHED)
    return [*POLICIES, "best", "exact" if _small(instance) else "pricing"]


def _small(instance: Instance) -> bool:
    """Whether the exact model is worth trying."""
    return columns(instance) <= MOST_COLUMNS and spread(instance) <= MOST_SPREAD


def run_all(
    instance: Instance,
    methods: Methods | None = None,
    *,
    time_limit: float | str = 60.0,
    work: int | None = None,
    seed: int = 0,
    kernel: str | None = None,
    record: bool = False,
    progress: Progress = silent,
) -> list[Result]:
    """Run several methods and set the strongest bound any of them gave beside every result.

    Parameters
    ----------
    methods
        Names, ``FILE.py:Class``, and policies of your own, mixed; also a single one, or names separated by
        commas. None takes every policy, the ideal, and the exact model or, on larger instances, pricing.
    """
    common: dict[str, Any] = {
        "work": work, "seed": seed, "kernel": kernel, "record": record, "progress": progress,
    }  # fmt: skip
    chosen = choose(arguments.instance(instance), methods)
    return share_bound([solve(instance, each, time_limit=time_limit, **common) for each in chosen])


def choose(instance: Instance, methods: Methods | None) -> list[Policy | str]:
    """Return the methods to run, each checked, with the user's own policies as objects.

    Parameters
    ----------
    methods
        As for `run_all`; ``"all"`` stands for every name there is.

    Raises
    ------
    UsageError
        There is none, one is unknown, or one is no policy.
    """
    if methods is None:
        return [*default_methods(instance)]
    if isinstance(methods, str):
        methods = [name.strip() for name in methods.split(",")]
    elif isinstance(methods, type) or not isinstance(methods, Iterable):
        methods = [methods]
    found: list[Policy | str] = []
    for method in methods:
        found += ALL if isinstance(method, str) and method == "all" else [_known(method)]
    if not found:
        raise UsageError("methods: expected at least one")
    return found


def _known(method: Policy | type[Any] | os.PathLike[str] | str) -> Policy | str:
    method = os.fspath(method) if isinstance(method, os.PathLike) else method
    if not isinstance(method, str) or is_file(method):
        return make_policy(method)
    if not is_policy(method) and method not in BOUNDS:
        load_method(method)
    return method
