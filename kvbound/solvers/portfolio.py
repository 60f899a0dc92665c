"""Which method runs when: `solve` runs one, `run_all` several; by default they are chosen by size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

from kvbound import arguments
from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.errors import KvboundError, UsageError
from kvbound.fang2025.adapter import PUBLISHED
from kvbound.instance import Instance
from kvbound.models import columns
from kvbound.placement import Placement
from kvbound.policies import PLACING_WEIGHTS, POLICIES, Policy, is_file, is_policy, make_policy
from kvbound.progress import Progress, silent
from kvbound.result import Reason, Result, Status, share_bound
from kvbound.solvers.dense import items as dense_items
from kvbound.solvers.registry import BOUNDS, METHODS, Settings, load_method, run_method

MOST_COLUMNS = 20_000
"""Columns of the exact model up to which it is tried by default."""

GAP = 0.01
"""Relative gap to the certified bound at which pricing and annealing stop by default."""

PRICING_SHARE = 0.6
"""Share of the time for pricing where annealing may follow."""

LEAST_ANNEALING_S = 1.0
"""Seconds left from which annealing is worth its start."""

ALL = (*POLICIES, "best", *METHODS)
"""What ``all`` stands for where methods are listed."""

Methods: TypeAlias = "Iterable[Policy | type[Any] | str] | Policy | type[Any] | str"


def solve(
    instance: Instance,
    method: Policy | type[Any] | str | None = None,
    *,
    time_limit: float | str = 60.0,
    gap: float | str | None = None,
    seed: int = 0,
    start: Placement | None = None,
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
        Relative gap to stop at, or text such as ``"1%"``; None takes the method's default.
    start
        A schedule to start from, for methods that can use one.
    work
        Amount of work, instead of a time limit: steps of the ascent for `dual` and `pricing`, moves per stay
        for `anneal` (evaluations under fang2025 accounting), nodes of the search for `exact`, thousands of
        simplex iterations for `relax`. The result is then the same to the last bit whatever the kernel, the
        processor and the number of threads; of `exact` and `relax` for the same build of HiGHS. Policies and
        `brute` need no limit.
    record
        As for `kvbound.simulate`.
    options
        Options of the method; without a method there are none.

    Raises
    ------
    UsageError
        The method is unknown or does not fit the instance or the options.
    """
    arguments.instance(instance)
    settings = Settings.checked(
        time_limit=time_limit, gap=gap, seed=seed, start=start, work=work, kernel=kernel, record=record,
        progress=progress,
    )  # fmt: skip
    if "sample" in options:
        options["sample"] = arguments.share("sample", options["sample"])
    if method is not None:
        return run_method(instance, method, settings, **options)
    if options:
        raise UsageError(f"{next(iter(options))} is an option of some methods: name one of them")
    if not instance.physical:
        return _fastest_published(instance, settings)
    if _is_small(instance):
        return run_method(instance, "exact", settings)
    deadline = time.perf_counter() + settings.time_limit
    settings = replace(settings, gap=GAP if settings.gap is None else settings.gap)
    first = replace(settings, time_limit=PRICING_SHARE * settings.time_limit)
    priced = run_method(instance, "pricing", first, anneal=False)
    settings = replace(settings, time_limit=deadline - time.perf_counter())
    if _may_improve(priced, instance, settings):
        return _annealed(priced, instance, settings)
    return priced


def _fastest_published(instance: Instance, settings: Settings) -> Result:
    """Run the published study's methods, which take neither a gap nor a start; return the least time."""
    settings = replace(settings, gap=None, start=None)
    results = share_bound([run_method(instance, method, settings) for method in PUBLISHED])
    found = [result for result in results if result.status is Status.FEASIBLE]
    return min(found, key=lambda result: result.value or 0.0) if found else results[0]


def _is_small(instance: Instance) -> bool:
    """Whether the exact model is worth trying."""
    return columns(instance) <= MOST_COLUMNS and spread(instance) <= MOST_SPREAD


def _may_improve(priced: Result, instance: Instance, settings: Settings) -> bool:
    """Whether there is a gap left, and time and a schedule for annealing to close it."""
    assert settings.gap is not None
    if priced.gap is None or priced.gap <= settings.gap or priced.termination.reason is Reason.INTERRUPTED:
        return False
    if dense_items.exceeds_bits(instance):
        return False
    in_time = settings.work is not None or settings.time_limit >= LEAST_ANNEALING_S
    return in_time and spread(instance) <= MOST_SPREAD


def _annealed(priced: Result, instance: Instance, settings: Settings) -> Result:
    """Anneal the schedule from pricing; the result keeps the bound that pricing proved."""
    settings = replace(settings, start=priced.placement)
    try:
        annealed = run_method(instance, "anneal", settings, bound_s=priced.bound.value)
    except KvboundError as error:  # a failure here must not lose the schedule already found
        return replace(priced, options={**priced.options, "anneal": str(error)})
    return replace(annealed, bound=priced.bound, certificate=priced.certificate)


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
    """Run several methods and give every result the strongest bound that any of them proves.

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


def default_methods(instance: Instance) -> list[str]:
    """Return what `compare` runs by default: every policy, the ideal, and the solver for the size."""
    if not instance.physical:
        return list(PUBLISHED)
    placed = instance.llm.weights == "placeable"
    policies = [name for name in POLICIES if placed or name not in PLACING_WEIGHTS]
    return [*policies, "best", "exact" if _is_small(instance) else "pricing"]


def choose(instance: Instance, methods: Methods | None) -> list[Policy | str]:
    """Return the methods to run, each checked, with the user's own policies as objects.

    Parameters
    ----------
    methods
        As for `run_all`; ``"all"`` stands for every name there is.

    Raises
    ------
    UsageError
        There is none, one is unknown, or one is not a policy.
    """
    if methods is None:
        return [*default_methods(instance)]
    if isinstance(methods, str):
        methods = [name.strip() for name in methods.split(",")]
    elif isinstance(methods, type) or not isinstance(methods, Iterable):
        methods = [methods]
    found: list[Policy | str] = []
    for method in methods:
        found += ALL if isinstance(method, str) and method == "all" else [_checked(method)]
    if not found:
        raise UsageError("methods: expected at least one")
    return found


def _checked(method: Policy | type[Any] | os.PathLike[str] | str) -> Policy | str:
    """Return a method once it is known to exist."""
    method = os.fspath(method) if isinstance(method, os.PathLike) else method
    if not isinstance(method, str) or is_file(method):
        return make_policy(method)
    if not is_policy(method) and method not in BOUNDS:
        load_method(method)
    return method
