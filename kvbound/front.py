"""The front of time and energy: schedules that trade one for the other, each with a certified bound.

A schedule that is best under some weights of time and energy is on the convex hull of the front. The sweep
begins with time alone and energy alone. The weights that make two neighbours equal look for what lies between
them, the widest gap first. Each point's bound holds for all schedules: together they bound the whole front.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kvbound import arguments
from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, KvboundError, UsageError
from kvbound.instance import Instance
from kvbound.objective import LEAST, MOST, Objective
from kvbound.result import BoundStatus, Reason, Result, Status
from kvbound.solvers.portfolio import solve

SCHEMA = "kvbound.pareto/1"
MOST_POINTS = 1000
_DIGITS = 4
"""Significant digits of weights between the ends."""
_SAME = 1e-9
"""Relative difference up to which points are one."""
_OPTIMAL_GAP = 1e-4
"""Gap up to which a schedule stays optimal beside a certified bound."""


@dataclass(frozen=True)
class FrontPoint:
    """The best schedule found for one choice of weights.

    Attributes
    ----------
    result
        With the schedule, and with a bound of the objective that the checker has certified.
    """

    objective: Objective
    result: Result

    @property
    def time_s(self) -> float:
        """Decode time in seconds."""
        return self.result.time_s or 0.0

    @property
    def energy_j(self) -> float:
        """Energy of transfers and static power, in joules: that of arithmetic is the same everywhere."""
        return _spent(self.result.to_json())


@dataclass(frozen=True)
class Front:
    """Points in the order of their times.

    Attributes
    ----------
    interrupted
        Whether the sweep ended early.
    """

    points: Sequence[FrontPoint]
    interrupted: bool = False

    def least_energy(self, time_s: float) -> float:
        """Return the energy in joules that no schedule of at most this decode time is below, as proved."""
        return _least_energy([_given(point) for point in self.points], time_s)

    def to_json(self) -> dict[str, Any]:
        """Return the document of the schema."""
        return {"schema": SCHEMA, "points": with_figures([_given(point) for point in self.points])}


def pareto(instance: Instance, points: int = 5, method: str | None = None, **options: Any) -> Front:
    """Sweep the weights of time and energy.

    Parameters
    ----------
    points
        Choices of weights, at least 2: time alone, energy alone, and mixes. There are fewer where nothing
        lies between neighbours. The level and point of energies are those of the instance's objective.
    method, options
        As for `kvbound.solve`, for each point. Where the method's bound is not certified, `dual` proves one
        under the same limits.

    Raises
    ------
    InputError
        The energy of a resource is unknown.
    InfeasibleError
        The instance has no placement.
    UsageError
        The number of points is out of range, or the method finds no schedule.
    """
    arguments.instance(instance)
    if not 2 <= points <= MOST_POINTS:
        raise UsageError(f"points: expected a whole number from 2 to {MOST_POINTS}, not {points}")
    _ = instance.with_objective(time=0.0, energy=1.0)  # energies are known
    goals = [(1.0, 0.0), (0.0, 1.0)]
    found: list[FrontPoint] = []
    interrupted = False
    while goals and len(found) < points and not interrupted:
        time, energy = goals.pop(0)
        point = _solved(instance.with_objective(time=time, energy=energy), method, options)
        interrupted = point.result.termination.reason is Reason.INTERRUPTED
        found.append(point)
        if not goals and (between := _between(found)) is not None:
            goals.append(between)
    return Front(_shared(instance, found), interrupted)


def with_figures(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return points of a document with the numbers that follow from their objectives and results."""
    made = []
    for point in points:
        result, time_s = point["result"], point["result"]["time_s"] or 0.0
        whole = math.fsum(part or 0.0 for part in (result["energy_j"] or {}).values())
        made.append({
            "objective": point["objective"],
            "time_s": time_s,
            "energy_j": _spent(result),
            "energy_delay_js": whole * time_s,
            "least_energy_j": _least_energy(points, time_s),
            "result": result,
        })  # fmt: skip
    return made


def _given(point: FrontPoint) -> dict[str, Any]:
    return {"objective": point.objective.to_mapping(), "result": point.result.to_json()}


def _spent(result: Mapping[str, Any]) -> float:
    """Return the joules of a result's transfers and static power."""
    parts = result["energy_j"] or {}
    return math.fsum(part or 0.0 for name, part in parts.items() if name != "compute")


def _least_energy(points: Sequence[Mapping[str, Any]], time_s: float) -> float:
    """Return what `Front.least_energy` does for the points of a document."""
    found = 0.0
    for point in points:
        bound, goal = point["result"]["bound"], point["objective"]
        if goal["energy"] and bound["status"] == "certified":
            found = max(found, (bound["objective"] - goal["time"] * time_s) / goal["energy"])
    return found


def _solved(instance: Instance, method: str | None, options: dict[str, Any]) -> FrontPoint:
    """Return a schedule for one choice of weights, with a certified bound."""
    result = solve(instance, method, **options)
    if result.status is Status.INFEASIBLE:
        raise InfeasibleError(result.termination.message or f"{instance.name}: no placement fits")
    if result.schedule is None and result.placement is None:
        raise UsageError(f"method {result.method} finds no schedule, which a point of the front needs")
    if result.bound.status is not BoundStatus.CERTIFIED:
        limits = {name: options[name] for name in ("time_limit", "work", "seed", "kernel") if name in options}
        result = _with_bound(result, solve(instance, "dual", **limits))
    return FrontPoint(instance.objective, result)


def _with_bound(result: Result, proved: Result) -> Result:
    """Return a result with the bound that another one proves."""
    made = dataclasses.replace(
        result, status=Status.FEASIBLE, bound=proved.bound, certificate=proved.certificate, proof=None
    )
    optimal = result.status is Status.OPTIMAL and (made.gap or 0.0) <= _OPTIMAL_GAP
    return dataclasses.replace(made, status=Status.OPTIMAL) if optimal else made


def _between(found: Sequence[FrontPoint]) -> tuple[float, float] | None:
    """Return the weights under which the two neighbours farthest apart cost the same, None if none are."""
    tried = {(point.objective.time, point.objective.energy) for point in found}
    ordered = sorted(found, key=lambda point: (point.time_s, point.energy_j))
    gaps: list[tuple[float, tuple[float, float]]] = []
    for fast, frugal in pairwise(ordered):
        longer, less = frugal.time_s - fast.time_s, fast.energy_j - frugal.energy_j
        if longer <= _SAME * frugal.time_s or less <= _SAME * fast.energy_j:
            continue
        weight = float(f"{longer / less:.{_DIGITS}g}")
        if (1.0, weight) not in tried and LEAST <= weight <= MOST:
            gaps.append((longer * less, (1.0, weight)))
    return max(gaps)[1] if gaps else None


def _shared(instance: Instance, found: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Give each point the best schedule of all under its weights; return them in the order of their times."""
    shared = []
    for point in found:
        best, goal = point.result, dataclasses.replace(instance, objective=point.objective)
        for other in found:
            if other is point or other.result.schedule is None or best.value is None:
                continue
            try:
                measures = evaluate(goal, other.result.schedule)
            except KvboundError:
                continue
            if measures.value < best.value * (1 - _SAME):
                best = dataclasses.replace(best, measures=measures, placement=other.result.schedule)
        shared.append(FrontPoint(point.objective, best))
    return sorted(shared, key=lambda point: (point.time_s, point.objective.energy, -point.objective.time))
