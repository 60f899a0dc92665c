"""The checker's report: its own numbers, and one sentence for each problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


class Refused(Exception):
    """A problem that rules out a replay; the arguments are the report's sentences."""


class Unreadable(Refused):
    """The file is damaged, or its size does not match its contents."""


@dataclass(frozen=True)
class Energy:
    """The energy of a schedule's transfers, in joules.

    Attributes
    ----------
    parts
        Least and greatest energy of ``weights``, ``kv`` and ``moves``: equal where they are unique.
    transfers
        Energy of all three together, None if it is not unique.
    """

    parts: Mapping[str, tuple[float, float]]
    transfers: float | None


@dataclass(frozen=True)
class Report:
    """The findings; numbers are recomputed, and None where nothing could be replayed.

    Attributes
    ----------
    problems
        One sentence each; empty if and only if the file is accepted.
    time_s, step_times_s
        The decode time, and the time of each step ``(steps,)``, in seconds.
    hit_bytes, peak_bytes
        Per tier: bytes read of items, KV or chunks of weights, that were there when the slot began
        ``(tiers,)``, and the largest number of bytes held at any moment, resident weights included.
    moved_bytes
        Bytes of items moved ``up`` and ``down``, without births, the initial fill and free moves down.
    mean_alpha
        fang2025 only: mean share of the bytes read, weights included, that tier 0 serves.
    busy
        Per resource ``(resources,)``: share of the decode time that it is busy; None where several optimal
        splits of the reads give different shares.
    energy
        The energy of the transfers; None where they load a resource of unknown energy.
    bound_s
        Certificates only: the proved time lower bound in seconds, rounded down; under another objective than
        time alone the lower bound of that.
    time_alone, objective
        Whether time alone is minimised, and what the schedule costs under another objective.
    one_split
        Whether no other split of reads between two copies costs as little: times are those of one that does.
    least_s
        The least decode time that any split of the schedule's reads takes, where there may be several.
    unreadable
        Whether nothing was checked because the file is damaged.
    """

    schema: str
    problems: tuple[str, ...]
    instance_sha256: str | None = None
    time_s: float | None = None
    step_times_s: Floats | None = field(default=None, repr=False)
    hit_bytes: Floats | None = None
    peak_bytes: tuple[int, ...] | None = None
    moved_bytes: Mapping[str, float] | None = None
    mean_alpha: float | None = None
    bound_s: float | None = None
    busy: Floats | None = None
    energy: Energy | None = None
    unreadable: bool = False
    time_alone: bool = True
    objective: float | None = None
    one_split: bool = True
    least_s: float | None = None

    @classmethod
    def refused(cls, schema: str, refusal: Refused, problems: list[str], sha256: str | None) -> Report:
        """Report a refusal after other problems; `unreadable` only if there are none."""
        damaged = isinstance(refusal, Unreadable) and not problems
        return cls(schema, (*problems, *map(str, refusal.args)), sha256, unreadable=damaged)

    @property
    def ok(self) -> bool:
        """Whether the schedule is accepted."""
        return not self.problems

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as JSON-ready values, percentiles in place of the step times."""
        hits, peaks, steps = self.hit_bytes, self.peak_bytes, self.step_times_s
        shares = None if hits is None else (hits / max(hits.sum(), 1.0)).tolist()
        tpot = None
        if steps is not None:
            p50, p95, p99 = np.percentile(steps, [50, 95, 99])
            tpot = {"mean": steps.mean(), "p50": p50, "p95": p95, "p99": p99, "max": steps.max()}
            tpot = {key: float(value) for key, value in tpot.items()}
        return {
            "schema": "kvbound.report/1", "checked": self.schema, "ok": self.ok,
            "problems": list(self.problems), "instance_sha256": self.instance_sha256,
            "time_s": self.time_s, **self._bounds(), "tpot_s": tpot, "hit_rate": shares,
            "hit_rate_with_weights": self.mean_alpha,
            "moved_bytes": None if self.moved_bytes is None else dict(self.moved_bytes),
            "peak_bytes": None if peaks is None else list(peaks),
        }  # fmt: skip

    def _bounds(self) -> dict[str, float | None]:
        """Return what is minimised and its bound, by the names of the fields."""
        if self.time_alone:
            return {"bound_s": self.bound_s}
        return {"bound_s": None, "objective": self.objective, "bound": self.bound_s}


def note(problems: list[str], bad: NDArray[np.bool_], describe: Callable[[int], str]) -> None:
    """Add one problem: a description of the first True of `bad`, and how many more there are."""
    where = np.flatnonzero(bad)
    if where.size:
        more = f" (and {where.size - 1} more like it)" if where.size > 1 else ""
        problems.append(describe(int(where[0])) + more)


def compare(problems: list[str], claimed_s: float | None, time_s: float) -> None:
    """Add a problem if a claimed time differs from the recomputed one by more than 1e-9 relative."""
    if claimed_s is not None and not abs(claimed_s - time_s) <= 1e-9 * time_s:
        problems.append(f"the claimed time {claimed_s!r} s is not the schedule's, {time_s!r} s")


def require(conditions: Mapping[str, bool]) -> None:
    """Raise a ValueError that names the first condition, if any, that does not hold."""
    for expected, holds in conditions.items():
        if not holds:
            raise ValueError(f"expected {expected}")
