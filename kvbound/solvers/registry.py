"""The methods by name. To add one: a module with a function of the same form, and a line in METHODS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from kvbound.errors import UsageError
from kvbound.fields import did_you_mean
from kvbound.policies import POLICIES
from kvbound.result import Result


class Method(NamedTuple):
    """Where a solver lives, and what it does in one line."""

    home: str
    summary: str


METHODS: dict[str, Method] = {
    "exact": Method("mip.exact:solve_exact", "Mixed-integer program, proved optimal by HiGHS"),
    "relax": Method(
        "mip.relaxation:solve_relaxation", "Linear relaxation with count cuts: a bound, no schedule"
    ),
    "pricing": Method("pricing.solve:solve_pricing", "Schedules of any size beside a certified bound"),
    "dual": Method(
        "lagrangian.certify:solve_certified", "Lagrangian bound, certified by the checker; no schedule"
    ),
    "anneal": Method("annealing.solve:solve_annealing", "Simulated annealing of schedules, vectorised"),
    "brute": Method("reference.brute_force:solve_brute", "Enumeration, for the tiniest instances"),
}


def refuse_options(method: str, options: Iterable[str], known: Container[str]) -> None:
    """Refuse options that a method does not know."""
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
