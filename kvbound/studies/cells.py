"""Run a study's cells one at a time, and keep each one as soon as it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from kvbound.errors import InfeasibleError, InputError, RejectedError, UsageError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.published import PUBLISHED as POLICIES
from kvbound.residency import Residency, large
from kvbound.result import Bound, BoundStatus, Result
from kvbound.schedule import Schedule, write_schedule
from kvbound.solvers import solve, strongest
from kvbound.solvers.certificate import write_certificate
from kvbound.studies.fang2025 import Cell
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
    read_record,
    schedule_name,
    store,
)

OPTIONS: Final = {"sa-guided": {"window": 5, "topk": 0.5}}
"""The policies' options: where the study's search starts."""
GAP: Final = 1e-3
"""Relative gap at which the annealer, which begins at the fastest schedule so far, may stop."""


def run_cells(
    cells: Iterable[Cell], settings: Settings, folder: Path | None = None, progress: Progress = silent
) -> Iterator[Record]:
    """Yield the record of every cell; those that `folder` holds are verified, not run again.

    Parameters
    ----------
    folder
        Where ``cells/NAME.json`` are, and what proves them; None keeps nothing.

    Raises
    ------
    InputError, RejectedError, UsageError
        The folder holds something damaged, something that is not proved, or cells run with other settings.
    OSError
        A cell could not be written; its record has been yielded.
    KeyboardInterrupt
        The cell in work is lost, the others are kept.
    """
    todo = list(cells)
    places = [None if folder is None else folder / "cells" / f"{cell.name}.json" for cell in todo]
    known = _stored(todo, places, settings, progress)
    policies: dict[Cell, Record] = {}
    for number, (cell, place, record) in enumerate(zip(todo, places, known, strict=True), 1):
        unsaved = None
        if record is None:
            report = _named(progress, f"{number}/{len(todo)} {cell.name}")
            ran = run_cell(cell, settings, report, policies.get(cell.published_rules))
            record = ran.record
            try:
                record = record if place is None else store(ran, place)
            except OSError as error:
                unsaved = error
        policies[cell.published_rules] = record["fang2025"]
        yield record
        if unsaved is not None:
            raise unsaved


def _named(progress: Progress, name: str) -> Progress:
    """Say which cell is in work before what the solver says."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{name}: {note}")

    return report


def _stored(
    cells: Iterable[Cell], places: Iterable[Path | None], settings: Settings, progress: Progress
) -> list[Record | None]:
    """Read and verify the records that there are, before any cell is run."""
    from kvbound.studies.verify import verify_cell

    found: list[tuple[Cell, Path | None, Record | None]] = []
    for cell, place in zip(cells, places, strict=True):
        record = None if place is None or not place.is_file() else read_record(place)
        if record is not None and record["settings"] != settings.to_json():
            told = f"{place} was run with other settings, {record['settings']}"
            raise UsageError(f"{told}; take another --out")
        found.append((cell, place, record))
    policies: dict[Cell, Record] = {}
    for number, (cell, place, record) in enumerate(found):
        if place is None or record is None:
            continue
        progress(number, len(found), f"{cell.name}: verified")
        problems = verify_cell(
            cell, settings, record, place.parent, policies, thorough=not _large(cell, settings)
        )
        if problems:
            raise RejectedError(f"{place}: {problems[0]}; delete it to run the cell again")
    return [record for _, _, record in found]


def _large(cell: Cell, settings: Settings) -> bool:
    return large(cell.instance(settings.scale, settings.seed))


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
    study = cell.instance(settings.scale, settings.seed)
    ours = study.with_rules(accounting="physical")
    common: dict[str, Any] = {"seed": settings.seed, "progress": progress}
    if policies is None:
        policies = published_entries(study, **common)
    runs = _schedules(ours, settings.time_limit, common)
    bound = _certified(runs.values())
    record = {
        "schema": SCHEMA,
        "cell": cell.name,
        "settings": settings.to_json(),
        "factors": dataclasses.asdict(cell),
        "instance": shape(ours),
        "fang2025": policies,
        "physical": {name: _summary(entry, bound) for name, entry in runs.items()},
        "ideal_s": ideal_s(ours, **common),
        "bound_s": bound.time_s,
        "bound_status": str(bound.status),
        **ratios({name: _time(result) for name, (result, _) in runs.items()}, bound.time_s),
        "published": beside(cell, settings.scale, policies),
    }
    return Ran(record, _proofs(cell, ours, runs, bound))


def published_entries(study: Instance, **common: Any) -> Record:
    """Run the study's policies under its own accounting."""
    return {name: _summary(_entry(study, name, **OPTIONS.get(name, {}), **common)) for name in POLICIES}


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
                write_schedule, result.schedule,
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
    if large(instance) and name != "static":
        return None, "its moves would fill the memory"
    return _entry(instance, name, **common)


def _entry(instance: Instance, name: str, **options: Any) -> Entry:
    try:
        result = solve(instance, name, **options)
    except (UsageError, InputError, InfeasibleError) as error:
        return None, str(error)
    except MemoryError:
        return None, "more memory than there is"
    if result.termination.reason == "interrupted":
        raise KeyboardInterrupt
    return result, result.termination.reason if result.status == "infeasible" else ""


def _fastest(runs: dict[str, Entry]) -> Schedule | Residency | None:
    found = [result for result, _ in runs.values() if result is not None and result.time_s is not None]
    best = min(found, key=lambda result: result.time_s or 0.0, default=None)
    return None if best is None else best.schedule or best.residency


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
        "room_blocks": instance.room[0],
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
