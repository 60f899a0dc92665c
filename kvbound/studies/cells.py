"""One cell of a study: every policy and solver on it, and the files that prove what they found."""

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
    RULES,
    SCHEMA,
    SOLVERS,
    Ran,
    Record,
    Settings,
    beside,
    certificate_name,
    ratios,
    schedule_name,
)
from kvbound.studies.study import Cell, Study

GAP: Final = 1e-3
"""Relative gap at which the annealer, which begins at the fastest schedule so far, may stop."""


def run_cell(
    cell: Cell, settings: Settings, progress: Progress = silent, policies: Record | None = None
) -> Ran:
    """Run every policy and solver on one cell.

    Parameters
    ----------
    policies
        What the study's policies gave already on a cell that is the same to their accounting.

    Raises
    ------
    KeyboardInterrupt
        So that no half-done cell counts as done.
    """
    theirs = cell.instance(settings.scale, settings.seed)
    ours = theirs.with_rules(accounting="physical")
    common: dict[str, Any] = {"seed": settings.seed, "progress": progress}
    if policies is None:
        policies = published_entries(settings.study, theirs, **common)
    runs = _schedules(ours, settings.time_limit, common)
    bound = _certified(runs.values())
    record = {
        "schema": SCHEMA,
        "cell": cell.name,
        "settings": settings.to_json(),
        "factors": dict(cell.factors),
        "instance": shape(ours),
        settings.study.accounting: policies,
        "physical": {name: _summary(entry, bound) for name, entry in runs.items()},
        "ideal_s": ideal_s(ours, **common),
        "bound_s": bound.time_s,
        "bound_status": str(bound.status),
        **ratios({name: _time(result) for name, (result, _) in runs.items()}, bound.time_s),
        "published": beside(cell, settings, policies),
    }
    return Ran(record, _proofs(cell, ours, runs, bound))


def published_entries(study: Study, instance: Instance, **common: Any) -> Record:
    """Run the study's policies under its own accounting."""
    return {
        name: _summary(_entry(instance, name, **options, **common))
        for name, options in study.policies.items()
    }


def rule_entry(ours: Instance, name: str, **common: Any) -> Record:
    """Run one of RULES."""
    return _summary(_rule(ours, name, common))


def ideal_s(ours: Instance, **common: Any) -> float | None:
    """Return the time if placement were no constraint, in seconds."""
    ideal, _ = _entry(ours, "best", **common)
    return None if ideal is None else ideal.bound.time_s


def _proofs(
    cell: Cell, ours: Instance, runs: Mapping[str, Entry], bound: Bound
) -> dict[str, Callable[[Path], None]]:
    """Return what writes the bound's certificate, and the solvers' schedules unless they take gigabytes."""
    proofs: dict[str, Callable[[Path], None]] = {}
    for name, (result, _) in runs.items():
        if result is None:
            continue
        if result.certificate is not None and result.bound == bound:
            proofs[certificate_name(cell.name)] = partial(write_certificate, result.certificate)
        if name in SOLVERS and result.schedule is not None:
            proofs[schedule_name(cell.name, name)] = partial(
                write_placement, result.schedule,
                instance_sha256=ours.sha256, decode_steps=ours.decode_steps,
            )  # fmt: skip
    return proofs


Entry = tuple[Result | None, str]
"""A result, or why there is none."""


def _schedules(instance: Instance, time_limit: float, common: dict[str, Any]) -> dict[str, Entry]:
    """Run what gives schedules; the annealer starts from the fastest before it."""
    runs: dict[str, Entry] = {}
    for name in RULES:
        runs[name] = _rule(instance, name, common)
    for name, share in SOLVERS.items():
        further = {"start": _fastest(runs), "gap": GAP} if name == "anneal" else {}
        runs[name] = _entry(instance, name, time_limit=share * time_limit, **further, **common)
    return runs


def _rule(instance: Instance, name: str, common: dict[str, Any]) -> Entry:
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
    """Return the strongest bound that the checker agreed to."""
    results = [result for result, _ in entries if result is not None]
    return strongest([each for each in results if each.bound.status is BoundStatus.CERTIFIED])


def shape(instance: Instance) -> dict[str, Any]:
    """Return the sizes that a record names."""
    return {
        "layers": instance.layers,
        "prefill_tokens": instance.prefill_tokens,
        "decode_steps": instance.decode_steps,
        "reads": int(instance.read_counts().sum()),
        "room_blocks": instance.capacity_blocks[0],
    }


def _time(result: Result | None) -> float | None:
    return None if result is None else result.time_s


def _summary(entry: Entry, bound: Bound | None = None) -> dict[str, Any]:
    """Return time and hit rate; a schedule below the bound is a defect, and raises."""
    result, why = entry
    if result is not None and result.measures is not None and bound is not None:
        result = result.with_bound(bound)
    rates = {} if result is None or result.measures is None else result.measures.hit_rate
    return {"time_s": _time(result), "hit_rate": next(iter(rates.values()), None), "note": why}
