"""Bounds and checks on objects: `kvbound.bound` and `kvbound.check`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvbound import arguments, checker
from kvbound.certificate import Certificate, read_certificate
from kvbound.checker import Report
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.instance import Instance
from kvbound.placement import Placement
from kvbound.result import Bound, Result, Status
from kvbound.solvers.portfolio import solve
from kvbound.tree import Tree
from kvbound.units import show


def bound(instance: Instance, **options: Any) -> Bound:
    """Prove a time lower bound, and have it checked.

    Parameters
    ----------
    options
        As for `kvbound.solve`: ``time_limit=60``, ``work``, ``seed=0``, ``kernel``; and those of the method
        "dual": ``sample``, the share of the items in each step's sample, and ``resume``, a certificate to
        continue from, the bound or result that has one, or its file.

    Returns
    -------
    Bound
        Certified by the checker, with its `certificate`.

    Raises
    ------
    InfeasibleError
        The instance has no placement.
    """
    arguments.instance(instance)
    if options.get("resume") is not None:
        options["resume"] = _certificate(instance, options["resume"])
    found = solve(instance, "dual", **options)
    if found.status is Status.INFEASIBLE:
        raise InfeasibleError(found.termination.message)
    return dataclasses.replace(found.bound, certificate=found.certificate)


def _certificate(instance: Instance, what: object) -> Certificate:
    """Return a certificate, given as itself, as what holds one, or as its file."""
    if isinstance(what, str | os.PathLike):
        return read_certificate(Path(what), instance)
    found = what.certificate if isinstance(what, Bound | Result) else what
    if not isinstance(found, Certificate):
        raise UsageError(f"resume: expected a certificate, or a bound or file with one, not {show(what)}")
    return found


def check(
    instance: Instance,
    what: Placement | Certificate | Tree | Bound | Result | str | os.PathLike[str],
    *,
    claimed_s: float | None = None,
) -> Report:
    """Have the independent checker replay a schedule, or recompute what a certificate proves.

    Parameters
    ----------
    what
        A placement, a certificate or a tree of them, a bound or result that has one, or the file of one of
        these. If a result has both, its placement is checked, against the result's own time.
    claimed_s
        The decode time or bound that is claimed, in seconds.

    Returns
    -------
    kvbound.checker.Report
        ``ok``, ``problems``, and the checker's own numbers.

    Raises
    ------
    UsageError
        The bound or result has nothing to check.
    InputError
        There is no such file.
    """
    arguments.instance(instance)
    claimed_s = None if claimed_s is None else arguments.seconds("claimed_s", claimed_s)
    if isinstance(what, Result):
        claimed_s = what.time_s if claimed_s is None else claimed_s
        claimed_s = claimed_s if what.placement is not None else None
    file = Path(what) if isinstance(what, str | os.PathLike) else _arrays(instance, what)
    if isinstance(file, Path) and not file.is_file():
        raise InputError(file, "", "a schedule or certificate file (.npz)")
    return checker.check(instance.expanded(), instance.token_trace.arrays, file, claimed_s=claimed_s)


def _arrays(instance: Instance, what: object) -> Mapping[str, Any]:
    """Return the arrays that the file of `what` would hold."""
    match what:
        case Certificate() | Tree():
            return what.arrays()
        case Placement():
            return what.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        case Result():
            inside = what.placement or what.certificate or what.proof
        case Bound():
            inside = what.certificate
        case _:
            expected = "a schedule, certificate, bound, result or file to check"
            raise UsageError(f"expected {expected}, not {show(what)}")
    if inside is None:
        raise UsageError(f"this {type(what).__name__.lower()} has neither a schedule nor a certificate")
    return _arrays(instance, inside)
