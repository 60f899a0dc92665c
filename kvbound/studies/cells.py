"""Run a cell of a study: every policy and solver, and the files that prove their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from kvbound.certificate import write_certificate
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.instance import Instance
from kvbound.placement import Placement, write_placement
from kvbound.progress import Progress, silent
from kvbound.residency import exceeds_event_limit
from kvbound.result import Bound, BoundStatus, Reason, Result, strongest
from kvbound.solvers.portfolio import solve
from kvbound.studies.record import (
    SCHEMA,
    CellRun,
    Record,
    Settings,
    certificate_name,
    compare_published,
    ratios,
    schedule_name,
)
from kvbound.studies.study import Cell, Study

GAP: Final = 1e-3
"""Relative gap at which the annealer stops; it starts from the fastest schedule so far."""


def run_cell(
    cell: Cell, settings: Settings, progress: Progress = silent, policies: Record | None = None
) -> CellRun:
    """Run every policy and solver on one cell.

    Parameters
    ----------
    policies
        Results of the study's policies on an earlier cell with the same `as_published`.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted; the cell is not complete.
    """
    published = cell.instance(settings.scale, settings.seed)
    physical = published.with_rules(accounting="physical")
    common: dict[str, Any] = {"seed": settings.seed, "progress": progress}
    if policies is None:
        policies = published_entries(cell, settings, **common)
    runs = _schedules(physical, settings, common)
    bound = _certified(runs.values())
    record = {
        "schema": SCHEMA,
        "cell": cell.name,
        "settings": settings.to_json(),
        "factors": dict(cell.factors),
        "instance": shape(physical),
        settings.study.accounting: policies,
        "physical": {name: _summary(entry, bound) for name, entry in runs.items()},
        "ideal_s": ideal_s(physical, **common),
        "bound_s": bound.time_s,
        "bound_status": str(bound.status),
        **ratios({name: _time(result) for name, (result, _) in runs.items()}, bound.time_s),
        "published": compare_published(cell, settings, policies),
    }
    return CellRun(record, _proofs(cell, physical, runs, bound, settings.study))


def published_entries(cell: Cell, settings: Settings, **common: Any) -> Record:
    """Run the study's policies under its own accounting."""
    study = settings.study
    if study.entries is not None:
        return dict(study.entries(cell, settings.scale))
    instance = cell.instance(settings.scale, settings.seed)
    return {
        name: _summary(_entry(instance, name, **options, **common))
        for name, options in study.policies.items()
    }


def policy_entry(instance: Instance, name: str, **common: Any) -> Record:
    """Run one of the policies under `physical` accounting."""
    return _summary(_policy(instance, name, common))


def ideal_s(instance: Instance, **common: Any) -> float | None:
    """Return the ideal time in seconds, a time lower bound."""
    ideal, _ = _entry(instance, "best", **common)
    return None if ideal is None else ideal.bound.time_s


def _proofs(
    cell: Cell, instance: Instance, runs: Mapping[str, Entry], bound: Bound, study: Study
) -> dict[str, Callable[[Path], None]]:
    """Return writers, by file name, of the bound's certificate and of the solvers' schedules by events."""
    proofs: dict[str, Callable[[Path], None]] = {}
    for name, (result, _) in runs.items():
        if result is None:
            continue
        if result.certificate is not None and result.bound == bound:
            proofs[certificate_name(cell.name)] = partial(write_certificate, result.certificate)
        if name in study.solvers and result.schedule is not None:
            proofs[schedule_name(cell.name, name)] = partial(
                write_placement, result.schedule,
                instance_sha256=instance.sha256, tokens=instance.tokens,
            )  # fmt: skip
    return proofs


Entry = tuple[Result | None, str]
"""A result, or None and the reason why there is none."""


def _schedules(instance: Instance, settings: Settings, common: dict[str, Any]) -> dict[str, Entry]:
    """Run policies and solvers; the annealer starts from the fastest schedule before it."""
    runs: dict[str, Entry] = {}
    for name in settings.study.schedules:
        runs[name] = _policy(instance, name, common)
    for name, share in settings.study.solvers.items():
        further = {"start": _fastest(runs), "gap": GAP} if name == "anneal" else {}
        runs[name] = _entry(instance, name, time_limit=share * settings.time_limit, **further, **common)
    return runs


def _policy(instance: Instance, name: str, common: dict[str, Any]) -> Entry:
    if exceeds_event_limit(instance) and name != "static":
        return None, "its moves would fill the memory"
    return _entry(instance, name, **common)


def _entry(instance: Instance, name: str, **options: Any) -> Entry:
    try:
        result = solve(instance, name, **options)
    except (UsageError, InputError, InfeasibleError) as error:
        return None, str(error)
    except MemoryError:
        return None, "more memory than there is"
    if result.termination.reason is Reason.INTERRUPTED:
        raise KeyboardInterrupt
    return result, result.termination.message


def _fastest(runs: dict[str, Entry]) -> Placement | None:
    found = [result for result, _ in runs.values() if result is not None and result.time_s is not None]
    best = min(found, key=lambda result: result.time_s or 0.0, default=None)
    return None if best is None else best.placement


def _certified(entries: Iterable[Entry]) -> Bound:
    """Return the strongest certified bound."""
    results = [result for result, _ in entries if result is not None]
    return strongest([each for each in results if each.bound.status is BoundStatus.CERTIFIED])


def shape(instance: Instance) -> dict[str, Any]:
    """Return the instance's sizes as in a record."""
    return {
        "layers": instance.layers,
        "prefill_tokens": instance.workload.prefill_tokens,
        "decode_steps": instance.decode_steps,
        "reads": int(instance.read_counts().sum()),
        "room_blocks": instance.capacity_units[0],
    }


def _time(result: Result | None) -> float | None:
    return None if result is None else result.time_s


def _summary(entry: Entry, bound: Bound | None = None) -> dict[str, Any]:
    """Return time, hit rate and note of an entry; raises an error for a schedule faster than the bound."""
    result, note = entry
    if result is not None and result.measures is not None and bound is not None:
        result = result.with_bound(bound)
    rates = {} if result is None or result.measures is None else result.measures.hit_rate
    return {"time_s": _time(result), "hit_rate": next(iter(rates.values()), None), "note": note}
