"""What the checker says: numbers of its own and one clear sentence per problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


class Refused(Exception):
    """A problem after which nothing can be replayed; the arguments are the sentences."""


class Unreadable(Refused):
    """The file is damaged, or too small or too large for what it says it is."""


@dataclass(frozen=True)
class Report:
    """What the checker found; the numbers are its own and None where nothing could be replayed.

    Attributes
    ----------
    problems
        One clear sentence each; empty exactly if the schedule is accepted.
    time_s, step_times_s
        Decode time and its steps ``(steps,)``, in seconds.
    hit_bytes, peak_bytes
        Per tier: KV bytes read whose item was there when the slot began ``(tiers,)``, and the most
        bytes ever held, resident weights included, as integers.
    moved_bytes
        Bytes of KV moved ``up`` and ``down``; births, the initial fill and free drops left out.
    mean_alpha
        fang2025 only: the mean share of reads (weights included) served by tier 0.
    busy
        Per resource ``(resources,)``: share of the decode time that it works, where that is certain.
    bound_s
        Certificates only: the time lower bound proved, in seconds, rounded down.
    unreadable
        Nothing was checked, as the file is damaged.
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
    unreadable: bool = False

    @classmethod
    def refused(cls, schema: str, refusal: Refused, problems: list[str], sha256: str | None) -> Report:
        """Report a refusal after other problems; unreadable only if nothing else explains it."""
        damaged = isinstance(refusal, Unreadable) and not problems
        return cls(schema, (*problems, *map(str, refusal.args)), sha256, unreadable=damaged)

    @property
    def ok(self) -> bool:
        """Whether the schedule is accepted."""
        return not self.problems

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as JSON-ready values (without the single steps)."""
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
            "time_s": self.time_s, "bound_s": self.bound_s, "tpot_s": tpot, "hit_rate": shares,
            "hit_rate_with_weights": self.mean_alpha,
            "moved_bytes": None if self.moved_bytes is None else dict(self.moved_bytes),
            "peak_bytes": None if peaks is None else list(peaks),
        }  # fmt: skip


def note(problems: list[str], bad: NDArray[np.bool_], tell: Callable[[int], str]) -> None:
    """Add the sentence for the first True of `bad`, and how many more there are."""
    where = np.flatnonzero(bad)
    if where.size:
        more = f" (and {where.size - 1} more like it)" if where.size > 1 else ""
        problems.append(tell(int(where[0])) + more)


def compare(problems: list[str], claimed_s: float | None, time_s: float) -> None:
    """Compare a claimed time with the checker's, to 1e-9 relative."""
    if claimed_s is not None and not abs(claimed_s - time_s) <= 1e-9 * time_s:
        problems.append(f"the claimed time {claimed_s!r} s is not the schedule's, {time_s!r} s")
