"""Run a study's cells one at a time, and keep each one as soon as it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvbound import __version__
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.instance import Instance
from kvbound.instance_io import read_json, write_json
from kvbound.progress import Progress, silent
from kvbound.published import PUBLISHED as POLICIES
from kvbound.residency import Residency, large
from kvbound.result import Bound, BoundStatus, Result
from kvbound.schedule import Schedule
from kvbound.solvers import solve, strongest
from kvbound.studies.fang2025 import Cell, Scale, published

SCHEMA: Final = "kvbound.study-cell/1"
OPTIONS: Final = {"sa-guided": {"window": 5, "topk": 0.5}}
"""The policies' options: where the study's search starts."""
RULES: Final = ("static", "belady")
SOLVERS: Final = {"pricing": 0.75, "anneal": 0.25}
"""Shares of a cell's time; pricing proves the bound too."""
GAP: Final = 1e-3
"""Relative gap at which the annealer, which begins at the fastest schedule so far, may stop."""

NUMBERS: Final = ("ideal_s", "bound_s", "gap", "static_over_best_found", "static_over_bound")
"""What a record says of its cell as a whole."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a record depends on beside its cell."""

    scale: Scale
    seed: int = 0
    time_limit: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a stored record has to agree on."""
        return {
            "scale": self.scale.name,
            "seed": self.seed,
            "time_limit_s": self.time_limit,
            "kvbound_version": __version__,
        }


def run_cells(
    cells: Iterable[Cell], settings: Settings, folder: Path | None = None, progress: Progress = silent
) -> Iterator[Record]:
    """Yield the record of every cell; those that `folder` holds are not run again.

    Parameters
    ----------
    folder
        Where ``cells/NAME.json`` are; None keeps nothing.

    Raises
    ------
    InputError, UsageError
        The folder holds something else, or cells run with other settings.
    KeyboardInterrupt
        The cell in work is lost, the others are kept.
    """
    todo = list(cells)
    places = [None if folder is None else folder / "cells" / f"{cell.name}.json" for cell in todo]
    known = [None if place is None else _stored(place, settings) for place in places]
    policies: dict[Cell, Record] = {}
    for number, (cell, place, record) in enumerate(zip(todo, places, known, strict=True), 1):
        if record is None:
            report = _named(progress, f"{number}/{len(todo)} {cell.name}")
            record = run_cell(cell, settings, report, policies.get(cell.published_rules))
            if place is not None:
                write_json(record, place)
        policies[cell.published_rules] = record["fang2025"]
        yield record


def _named(progress: Progress, name: str) -> Progress:
    """Say which cell is in work before what the solver says."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{name}: {note}")

    return report


def _stored(place: Path, settings: Settings) -> Record | None:
    if not place.is_file():
        return None
    record = read_json(place)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise InputError(place, "schema", repr(SCHEMA))
    if not _readable(record):
        raise InputError(place, "", "a cell as 'kvbound reproduce --out' writes it; delete it to go on")
    if record.get("settings") != settings.to_json():
        raise UsageError(f"{place} was run with other settings, {record.get('settings')}; take another --out")
    return record


def _readable(record: Record) -> bool:
    """Whether a stored record has what tables and plots are made of."""
    try:
        entries = [*record["fang2025"].values(), *record["physical"].values()]
        found = [entry[name] for entry in entries for name in ("time_s", "hit_rate")]
        found += [record[name] for name in NUMBERS]
        found += [line[name] for line in record["published"] for name in ("published", "ours", "deviation")]
        texts = record["cell"], record["factors"]["variation"], *(entry["note"] for entry in entries)
    except (KeyError, TypeError, AttributeError):
        return False
    return all(isinstance(number, int | float | None) for number in found) and all(
        isinstance(text, str) for text in texts
    )


def run_cell(
    cell: Cell, settings: Settings, progress: Progress = silent, policies: Record | None = None
) -> Record:
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
        found = {name: _entry(study, name, **OPTIONS.get(name, {}), **common) for name in POLICIES}
        policies = {name: _summary(entry) for name, entry in found.items()}
    runs = _schedules(ours, settings.time_limit, common)
    ideal, _ = _entry(ours, "best", **common)
    bound = _certified(runs.values())
    return {
        "schema": SCHEMA,
        "cell": cell.name,
        "settings": settings.to_json(),
        "factors": dataclasses.asdict(cell),
        "instance": _shape(ours),
        "fang2025": policies,
        "physical": {name: _summary(entry, bound) for name, entry in runs.items()},
        "ideal_s": None if ideal is None else ideal.bound.time_s,
        "bound_s": bound.time_s,
        "bound_status": str(bound.status),
        **_ratios({name: _time(result) for name, (result, _) in runs.items()}, bound.time_s),
        "published": _beside(cell, settings.scale, policies),
    }


Entry = tuple[Result | None, str]
"""A result, or why there is none."""


def _schedules(instance: Instance, time_limit: float, common: dict[str, Any]) -> dict[str, Entry]:
    """Run what gives schedules; the annealer starts from the fastest before it."""
    runs: dict[str, Entry] = {}
    for name in RULES:
        if large(instance) and name != "static":
            runs[name] = None, "its moves would fill the memory"
        else:
            runs[name] = _entry(instance, name, **common)
    for name, share in SOLVERS.items():
        further = {"start": _fastest(runs), "gap": GAP} if name == "anneal" else {}
        runs[name] = _entry(instance, name, time_limit=share * time_limit, **further, **common)
    return runs


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


def _shape(instance: Instance) -> dict[str, Any]:
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


def _ratios(times: dict[str, float | None], bound: float | None) -> dict[str, Any]:
    """Return the best found, its gap, and what static takes times either."""
    known = {name: time for name, time in times.items() if time}
    winner, static = min(known, key=known.__getitem__, default=None), known.get("static")
    best = None if winner is None else known[winner]
    return {
        "best_found": winner,
        "gap": None if best is None or bound is None else 1 - bound / best,
        "static_over_best_found": None if static is None or best is None else static / best,
        "static_over_bound": None if static is None or not bound else static / bound,
    }


def _beside(cell: Cell, scale: Scale, policies: Record) -> list[dict[str, Any]]:
    """Return published numbers and ours: ratios at any scale, seconds at full size."""
    rows = []
    for what, theirs in published(cell.name).items():
        one, _, other = what.partition(" / ")
        if not other and scale.tokens > 1:
            continue
        time, unit = policies[one]["time_s"], policies[other]["time_s"] if other else 1.0
        own = None if time is None or not unit else time / unit
        deviation = None if own is None else own / theirs - 1
        rows.append({"what": what, "published": theirs, "ours": own, "deviation": deviation})
    return rows
