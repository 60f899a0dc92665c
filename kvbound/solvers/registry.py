"""The methods by name, and how one of them runs.

To add one: a module with a function of the same form, and a line in METHODS.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvbound import arguments
from kvbound.errors import UsageError
from kvbound.fields import did_you_mean
from kvbound.instance import Instance
from kvbound.placement import Placement
from kvbound.policies import POLICIES, Policy, is_policy, make_policy
from kvbound.progress import Progress, silent
from kvbound.result import Result
from kvbound.simulation import simulate


class Method(NamedTuple):
    """Module and function of a solver, and a summary in one line."""

    home: str
    summary: str


METHODS: dict[str, Method] = {
    "exact": Method("mip.exact:solve_exact", "Mixed-integer program by HiGHS, and optima by proof"),
    "relax": Method(
        "mip.relaxation:solve_relaxation", "Linear relaxation with count cuts: a bound, no schedule"
    ),
    "pricing": Method("pricing.solve:solve_pricing", "Schedules of any size, with a certified bound"),
    "dual": Method("certify:solve_certified", "Lagrangian bound, certified by the checker; no schedule"),
    "anneal": Method("annealing.solve:solve_annealing", "Simulated annealing of schedules, vectorised"),
    "brute": Method("reference.brute_force:solve_brute", "Enumeration, for the tiniest instances"),
}
"""Solvers, each a function of an instance, `time_limit`, `seed` and `progress`, and of what else it takes."""

BOUNDS = ("best", "ideal")
"""The time of a placement without constraints; under fang2025 accounting `best` is that study's number."""


@dataclass(frozen=True)
class Settings:
    """Settings that all methods have in common; see `kvbound.solvers.solve`."""

    time_limit: float = 60.0
    gap: float | None = None
    seed: int = 0
    start: Placement | None = None
    work: int | None = None
    kernel: str | None = None
    record: bool = False
    progress: Progress = silent

    @classmethod
    def checked(
        cls, *, time_limit: float | str, gap: float | str | None, seed: int, work: int | None, **others: Any
    ) -> Settings:
        """Return settings with their times and shares as numbers.

        Raises
        ------
        UsageError
            One of them is invalid.
        """
        return cls(
            time_limit=arguments.seconds("time_limit", time_limit),
            gap=arguments.share("gap", gap),
            seed=arguments.count("seed", seed, 0),
            work=None if work is None else arguments.count("work", work, 1),
            **others,
        )


def run_method(
    instance: Instance, method: Policy | type[Any] | str, settings: Settings, **options: Any
) -> Result:
    """Run a policy, a bound or a solver.

    Parameters
    ----------
    options
        The method's own.

    Raises
    ------
    UsageError
        The method is unknown or does not fit the instance or the options.
    """
    asked = {"start": settings.start, "gap": settings.gap}
    common = {name: value for name, value in asked.items() if value is not None}
    if is_policy(method) or method in BOUNDS:
        _refuse_unknown(method if isinstance(method, str) else make_policy(method).name, common, ())
        return simulate(
            instance, method, seed=settings.seed, kernel=settings.kernel, record=settings.record,
            progress=settings.progress, **options,
        )  # fmt: skip
    assert isinstance(method, str)
    solver = load_method(method)
    known = inspect.signature(solver).parameters
    options |= common
    if settings.work is not None and "work" in known:
        options["work"] = settings.work
    if "kernel" in known:
        options["kernel"] = settings.kernel
    _refuse_unknown(method, options, known)
    return solver(
        instance,
        time_limit=settings.time_limit,
        seed=settings.seed,
        progress=settings.progress,
        **options,
    )


def _refuse_unknown(method: str, options: Iterable[str], known: Container[str]) -> None:
    """Refuse options that a method does not take."""
    for option in options:
        if option not in known:
            raise UsageError(f"method {method} takes no {option}")


def load_method(name: str) -> Callable[..., Result]:
    """Import the function of a method.

    Raises
    ------
    UsageError
        There is no method of this name.
    """
    if name not in METHODS:
        known = [*METHODS, "ideal", *POLICIES]
        hint = did_you_mean(name, known)
        names = f"{', '.join(known)}; your own policy is FILE.py:Class"
        raise UsageError(f"unknown method {name!r}{hint} (known: {names})")
    module, function = METHODS[name].home.split(":")
    found: Callable[..., Result] = getattr(importlib.import_module(f"kvbound.solvers.{module}"), function)
    return found
