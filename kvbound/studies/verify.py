"""Verify a cell of a study: run what is quick again, have the checker replay and recompute the rest."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from kvbound.checker import Report, check
from kvbound.instance import Instance
from kvbound.residency import exceeds_event_limit
from kvbound.studies import cells
from kvbound.studies.record import (
    RULES,
    SOLVERS,
    Record,
    Settings,
    beside,
    certificate_name,
    ratios,
    schedule_name,
)
from kvbound.studies.study import Cell

_SAME = 1e-9


def verify_cell(
    cell: Cell,
    settings: Settings,
    record: Record,
    folder: Path,
    policies: dict[Hashable, Record],
    *,
    thorough: bool = True,
) -> list[str]:
    """Return a sentence for each false claim of a record.

    Parameters
    ----------
    folder
        Where the certificate and the schedules are.
    policies
        What the study's policies gave on the cells before, by `Cell.as_published`; added to.
    thorough
        Whether to run and replay; otherwise only what follows from other fields is verified, which takes no
        time at the published size.
    """
    times = {name: entry["time_s"] for name, entry in record["physical"].items()}
    problems = list(_differences("factors", record["factors"], dict(cell.factors)))
    for name, value in ratios(times, record["bound_s"]).items():
        problems += _differences(name, record[name], value)
    problems += _differences(
        "published", record["published"], beside(cell, settings, record[settings.study.accounting])
    )
    if record["bound_status"] != ("none" if record["bound_s"] is None else "certified"):
        problems.append(f"bound_status is {record['bound_status']!r}, but bound_s is {record['bound_s']!r}")
    for name, time in times.items():
        if time is not None and (record["bound_s"] or 0.0) > time * (1 + _SAME):
            problems.append(f"physical.{name}.time_s is {time!r}, below bound_s, {record['bound_s']!r}")
    if thorough and not problems:
        problems += _run_again(cell, settings, record, policies)
        problems += _replayed(cell.instance(settings.scale, settings.seed), record, folder)
    return problems


def _run_again(
    cell: Cell, settings: Settings, record: Record, policies: dict[Hashable, Record]
) -> Iterator[str]:
    """Compare what needs no search with what it is here."""
    theirs, study = cell.instance(settings.scale, settings.seed), settings.study
    ours, seed = theirs.with_rules(accounting="physical"), settings.seed
    rules = cell.as_published
    if rules not in policies:
        policies[rules] = cells.published_entries(study, theirs, seed=seed)
    yield from _differences(study.accounting, record[study.accounting], policies[rules])
    yield from _differences("instance", record["instance"], cells.shape(ours))
    yield from _differences("ideal_s", record["ideal_s"], cells.ideal_s(ours, seed=seed))
    for name in RULES:
        yield from _differences(
            f"physical.{name}", record["physical"][name], cells.rule_entry(ours, name, seed=seed)
        )


def _replayed(study: Instance, record: Record, folder: Path) -> Iterator[str]:
    """Have the solvers' schedules and the bound's certificate checked."""
    ours = study.with_rules(accounting="physical")

    def report(name: str) -> Report | None:
        return check(ours.expanded(), ours.trace.rows, folder / name) if name in record["files"] else None

    for solver in SOLVERS:
        entry, name = record["physical"][solver], schedule_name(record["cell"], solver)
        found = report(name)
        if found is None:
            if entry["time_s"] is not None and not exceeds_event_limit(ours):
                yield f"physical.{solver}.time_s is given, but there is no {name}"
        elif found.problems:
            yield f"{name}: {found.problems[0]}"
        else:
            hits = found.hit_bytes
            share = None if hits is None else float(hits[0] / max(hits.sum(), 1.0))
            own = {"time_s": found.time_s, "hit_rate": share, "note": ""}
            yield from _differences(f"physical.{solver}", entry, own)
    bound = record["bound_s"]
    if bound is None:
        return
    name = certificate_name(record["cell"])
    proof = report(name)
    if proof is None:
        yield f"bound_s is given, but there is no {name}"
    elif proof.problems:
        yield f"{name}: {proof.problems[0]}"
    elif bound > (proof.bound_s or 0.0):
        yield f"bound_s is claimed to be {bound!r}, but {name} proves only {proof.bound_s!r}"


def _differences(field: str, claim: Any, own: Any) -> Iterator[str]:
    """Compare two JSON values; numbers may differ in their last digits."""
    if isinstance(own, dict) and isinstance(claim, dict) and set(own) == set(claim):
        for key, value in own.items():
            yield from _differences(f"{field}.{key}", claim[key], value)
    elif isinstance(own, list) and isinstance(claim, list) and len(own) == len(claim):
        for number, value in enumerate(own):
            yield from _differences(f"{field}.{number}", claim[number], value)
    elif not _same(claim, own):
        yield f"{field} is claimed to be {claim!r:.60}, but is {own!r:.60}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SAME, abs_tol=1e-12)
    return bool(one == other)
