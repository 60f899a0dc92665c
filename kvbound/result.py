"""Results of solvers and simulations: what was found, and what is proved about it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kvbound.errors import InfeasibleError
from kvbound.identity import InstanceId, identify
from kvbound.instance import Instance
from kvbound.schedule import Schedule
from kvbound.version import __version__

if TYPE_CHECKING:
    from kvbound.certificate import Certificate
    from kvbound.placement import Placement
    from kvbound.trace.sequences import SequenceTime
    from kvbound.tree import Tree

SCHEMA = "kvbound.result/1"
_SLACK = 1e-9


class Status(StrEnum):
    """What is known of a result's schedule."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


class BoundStatus(StrEnum):
    """Whether a bound was certified by the independent checker or is claimed by the solver alone."""

    CERTIFIED = "certified"
    CLAIMED = "claimed"
    NONE = "none"


@dataclass(frozen=True)
class Bound:
    """A time lower bound, in seconds: no schedule of the instance is faster.

    `kvbound.bound` returns its proof in `certificate`; a `Result` has that of its bound in its own field.
    Where the objective is not time alone, `objective` is a lower bound of it in place of `time_s`.
    """

    time_s: float | None = None
    status: BoundStatus = BoundStatus.NONE
    method: str | None = None
    certificate: Certificate | None = field(default=None, repr=False, compare=False)
    objective: float | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.status is BoundStatus.NONE):
            raise ValueError("a bound has a value exactly when it is certified or claimed")
        if self.value is not None and not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(f"a time lower bound is finite and not negative, not {self.value}")

    @classmethod
    def of(cls, instance: Instance, value: float, status: BoundStatus, method: str | None) -> Bound:
        """Return a lower bound of an instance's objective."""
        if instance.objective.time_alone:
            return cls(value, status, method)
        return cls(None, status, method, objective=value)

    @property
    def value(self) -> float | None:
        """Lower bound of what is minimised: of the objective, or of time in seconds."""
        return self.time_s if self.objective is None else self.objective


class Reason(StrEnum):
    """Why the work ended."""

    DONE = "done"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    INFEASIBLE = "infeasible"


class Limit(StrEnum):
    """The limit that ended the work.

    `SOLVER`: the solver returned no result that can be relied on; `SPREAD`: the instance's times differ too
    much for a program; `SIZE`: the program would be too large.
    """

    TIME = "time"
    WORK = "work"
    SOLVER = "solver"
    SPREAD = "spread"
    SIZE = "size"


@dataclass(frozen=True)
class Termination:
    """Why the work ended.

    Attributes
    ----------
    limit
        Which limit was reached, where one was.
    message
        Why nothing was found, as a sentence for users; not part of the result JSON.

    Raises
    ------
    ValueError
        There is a limit for another reason, or none where one was reached.
    """

    reason: Reason = Reason.DONE
    limit: Limit | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if (self.limit is not None) != (self.reason is Reason.LIMIT):
            raise ValueError(f"work that ended by {self.reason} has no limit {self.limit}")

    def to_json(self) -> dict[str, str | None]:
        """Return what JSON holds."""
        return {"reason": str(self.reason), "limit": None if self.limit is None else str(self.limit)}


@dataclass(frozen=True)
class Measures:
    """What a schedule costs and moves, in bytes, seconds and shares; of KV alone unless stated otherwise.

    Attributes
    ----------
    time_s
        Total decode time.
    tpot_s
        Time per output token over steps: mean, p50, p95, p99, max.
    hit_rate
        Per tier name: share of KV bytes read whose item is there when the slot starts.
    hit_rate_with_weights
        The same for tier 0 with the weights counted as hits.
    moved_bytes
        up and down, without births and the initial fill.
    peak_bytes
        Per tier name, weights included.
    energy_j
        In joules: weights, kv, moves, compute (None if unknown) and, if the memory states a power, static;
        see `kvbound.cost.energy`. None where the energy of transfers is unknown.
    utilisation
        Per resource name: share of the decode time that it is busy; None under fang2025 accounting.
    sequences
        The sequences of a batch, where the trace tells them apart.
    objective
        What is minimised, where that is not time alone.
    """

    time_s: float
    tpot_s: Mapping[str, float]
    hit_rate: Mapping[str, float]
    hit_rate_with_weights: float
    moved_bytes: Mapping[str, int]
    peak_bytes: Mapping[str, int]
    energy_j: Mapping[str, float | None] | None = None
    utilisation: Mapping[str, float] | None = None
    sequences: Sequence[SequenceTime] = ()
    objective: float | None = None

    @property
    def value(self) -> float:
        """What is minimised: the objective, or time in seconds."""
        return self.time_s if self.objective is None else self.objective

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_s) and self.time_s >= 0):
            raise ValueError(f"a decode time is finite and not negative, not {self.time_s}")


@dataclass(frozen=True)
class Result:
    """Result of one method on one instance; the fields of the result JSON.

    Attributes
    ----------
    peak_rss_bytes
        Peak resident memory of the process when the result was made, so that its document does not change.
    placement
        What was found: a `Schedule`, a `kvbound.residency.Residency` where its events would exhaust the
        memory, or under fang2025 accounting the study's `Run`, where its log was requested.
    certificate, proof
        What proves the bound, or a weaker one than a solver claims: one certificate, or a tree of them.

    Raises
    ------
    ValueError
        The fields contradict each other: optimal without a schedule, a bound above the time.
    """

    instance: InstanceId
    method: str
    status: Status
    measures: Measures | None = None
    bound: Bound = Bound()
    termination: Termination = Termination()
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    kernel: str = "numpy"
    peak_rss_bytes: int = field(default_factory=lambda: peak_rss_bytes(), compare=False)
    placement: Placement | None = field(default=None, repr=False, compare=False)
    certificate: Certificate | None = field(default=None, repr=False, compare=False)
    proof: Tree | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.status is Status.OPTIMAL and (self.measures is None or self.bound.value is None):
            raise ValueError("an optimal result has a schedule's time and a bound")
        if self.status is Status.FEASIBLE and self.measures is None:
            raise ValueError("a feasible result has a schedule's time")
        if self.status is Status.INFEASIBLE and self.measures is not None:
            raise ValueError("an infeasible result has no schedule's time")
        if self.value is not None and (self.bound.value or 0.0) > self.value * (1 + _SLACK):
            raise ValueError(f"the time {self.value} s is below its own lower bound {self.bound.value} s")

    @property
    def _objective(self) -> dict[str, str]:
        """What is minimised, as an option; empty for time alone."""
        return {"objective": self.instance.objective} if self.instance.objective else {}

    @property
    def schedule(self) -> Schedule | None:
        """The placement where it is kept as events, else None."""
        return self.placement if isinstance(self.placement, Schedule) else None

    @property
    def time_s(self) -> float | None:
        """Decode time of the schedule found, in seconds."""
        return None if self.measures is None else self.measures.time_s

    @property
    def value(self) -> float | None:
        """What is minimised, of the schedule found: the objective, or time in seconds."""
        return None if self.measures is None else self.measures.value

    @property
    def total_energy_j(self) -> float | None:
        """Energy of the schedule found, in joules: the sum of all parts that are known."""
        parts = None if self.measures is None else self.measures.energy_j
        return None if parts is None else math.fsum(part for part in parts.values() if part is not None)

    @property
    def energy_per_token_j(self) -> float | None:
        """Energy for each decoded token, in joules."""
        total, outputs = self.total_energy_j, self.instance.outputs
        return None if total is None or not outputs else total / outputs

    @property
    def gap(self) -> float | None:
        """(time - bound) / time, of the objective, or None when either side is missing."""
        if self.measures is None or self.bound.value is None:
            return None
        value = self.measures.value
        return (value - self.bound.value) / value if value > 0 else 0.0

    @property
    def share_of_bound(self) -> float | None:
        """bound / time, of the objective: 1 for a proved optimum; None when either side is missing."""
        if self.measures is None or self.bound.value is None:
            return None
        value = self.measures.value
        return self.bound.value / value if value > 0 else 1.0

    def __repr__(self) -> str:
        """Return the method, the time and the bound in a line."""
        bound, value, unit = self.bound.value, self.value, "s"
        if self.bound.objective is not None or (self.measures and self.measures.objective is not None):
            unit = "of the objective"
        limits = "" if bound is None else f", bound {bound:.6g} {unit} ({self.bound.status})"
        time = "no schedule" if value is None else f"{value:.6g} {unit}"
        return f"<Result {self.instance.name}: {self.method}, {self.status}, {time}{limits}>"

    def with_bound(self, bound: Bound) -> Result:
        """Return the same result with another bound."""
        return dataclasses.replace(self, bound=bound)

    def to_json(self) -> dict[str, Any]:
        """Return the document of the result schema, with every field; `sequences` only for batches."""
        measures = self.measures
        outputs, bound = self.instance.outputs, self.bound
        sequences = [] if measures is None else [each.to_json() for each in measures.sequences]

        def rate(time: float | None) -> float | None:
            return None if not time else outputs / time

        return {
            "schema": SCHEMA,
            "kvbound_version": __version__,
            "instance": self.instance.to_json(),
            "method": self.method,
            "seed": self.seed,
            "options": dict(self.options) | self._objective,
            "status": str(self.status),
            "termination": self.termination.to_json(),
            "time_s": self.time_s,
            **({} if measures is None or measures.objective is None else {"objective": measures.objective}),
            "bound": {
                "time_s": bound.time_s,
                **({} if bound.objective is None else {"objective": bound.objective}),
                "status": str(bound.status),
                "method": bound.method,
            },
            "gap": self.gap,
            "share_of_bound": self.share_of_bound,
            "tokens_per_s": rate(self.time_s),
            "tokens_per_s_bound": rate(bound.time_s),
            "tpot_s": None if measures is None else dict(measures.tpot_s),
            "hit_rate": None if measures is None else dict(measures.hit_rate),
            "hit_rate_with_weights": None if measures is None else measures.hit_rate_with_weights,
            "moved_bytes": None if measures is None else dict(measures.moved_bytes),
            "utilisation": (
                None if measures is None or measures.utilisation is None else dict(measures.utilisation)
            ),
            "energy_j": None if measures is None or measures.energy_j is None else dict(measures.energy_j),
            "energy_per_token_j": self.energy_per_token_j,
            "peak_bytes": None if measures is None else dict(measures.peak_bytes),
            **({"sequences": sequences} if sequences else {}),
            "wall_s": self.wall_s,
            "peak_rss_bytes": self.peak_rss_bytes,
            "kernel": self.kernel,
        }


def peak_rss_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def infeasible(instance: Instance, error: InfeasibleError, begin: float, about: Mapping[str, Any]) -> Result:
    """Return the result of an instance that has no placement.

    Parameters
    ----------
    error
        Why it has none.
    begin
        When the work began, by ``time.perf_counter``.
    about
        Fields of the result that are known already, such as its method.
    """
    return Result(
        identify(instance, with_trace=False),
        status=Status.INFEASIBLE,
        termination=Termination(message=str(error)),
        wall_s=time.perf_counter() - begin,
        **about,
    )


def share_bound(results: Sequence[Result]) -> list[Result]:
    """Return results of one instance, those with a schedule with the strongest bound among all."""
    bound = strongest(results)
    return [result if result.measures is None else result.with_bound(bound) for result in results]


def strongest(results: Sequence[Result]) -> Bound:
    """Return the highest time lower bound among results of one instance."""
    known = (result.bound for result in results if result.bound.value is not None)
    return max(known, key=lambda bound: bound.value or 0.0, default=Bound())


def ranked(results: Iterable[Result]) -> list[Result]:
    """Sort results: schedules, the fastest first; results without numbers; bounds, the strongest first."""

    def key(result: Result) -> tuple[int, float]:
        if result.status in (Status.OPTIMAL, Status.FEASIBLE):
            return 0, result.value or 0.0
        bound = result.bound.value if result.value is None else result.value
        return (1, 0.0) if bound is None else (2, -bound)

    return sorted(results, key=key)


def title(result: Result) -> str:
    """Return the method's name for display: `best` under physical accounting is the ideal."""
    return "ideal" if result.method == "best" and result.bound.method == "ideal" else result.method


def ratio(result: Result) -> float | None:
    """Return time over the time lower bound, of the objective, or None when either side is missing."""
    if result.value is None or not result.bound.value:
        return None
    return result.value / result.bound.value
