"""Verify a cell of a study: rerun its policies, replay its schedules and recompute its bound."""

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
    Record,
    Settings,
    certificate_name,
    compare_published,
    ratios,
    schedule_name,
)
from kvbound.studies.study import Cell, Study

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
        The folder of the certificate and the schedules.
    policies
        Results of the study's policies on earlier cells, by `Cell.as_published`; this cell's are added.
    thorough
        Whether to rerun and replay; otherwise only fields that follow from others are verified, which is fast
        even at the published size.
    """
    times = {name: entry["time_s"] for name, entry in record["physical"].items()}
    problems = list(_differences("factors", record["factors"], dict(cell.factors)))
    for name, value in ratios(times, record["bound_s"]).items():
        problems += _differences(name, record[name], value)
    problems += _differences(
        "published", record["published"], compare_published(cell, settings, record[settings.study.accounting])
    )
    if record["bound_status"] != ("none" if record["bound_s"] is None else "certified"):
        problems.append(f"bound_status is {record['bound_status']!r}, but bound_s is {record['bound_s']!r}")
    for name, time in times.items():
        if time is not None and (record["bound_s"] or 0.0) > time * (1 + _SAME):
            problems.append(f"physical.{name}.time_s is {time!r}, below bound_s, {record['bound_s']!r}")
    if thorough and not problems:
        problems += _run_again(cell, settings, record, policies)
        instance = cell.instance(settings.scale, settings.seed)
        problems += _check_proofs(instance, record, folder, settings.study)
    return problems


def _run_again(
    cell: Cell, settings: Settings, record: Record, policies: dict[Hashable, Record]
) -> Iterator[str]:
    """Compare with a new run whatever needs no search: the policies, the ideal and the sizes."""
    published, study = cell.instance(settings.scale, settings.seed), settings.study
    physical, seed = published.with_rules(accounting="physical"), settings.seed
    key = cell.as_published
    if key not in policies:
        policies[key] = cells.published_entries(cell, settings, seed=seed)
    yield from _differences(study.accounting, record[study.accounting], policies[key])
    yield from _differences("instance", record["instance"], cells.shape(physical))
    yield from _differences("ideal_s", record["ideal_s"], cells.ideal_s(physical, seed=seed))
    for name in study.schedules:
        yield from _differences(
            f"physical.{name}", record["physical"][name], cells.policy_entry(physical, name, seed=seed)
        )


def _check_proofs(published: Instance, record: Record, folder: Path, study: Study) -> Iterator[str]:
    """Check the solvers' schedules and the bound's certificate."""
    instance = published.with_rules(accounting="physical")

    def report(name: str) -> Report | None:
        if name not in record["files"]:
            return None
        return check(instance.expanded(), instance.token_trace.arrays, folder / name)

    for solver in study.solvers:
        entry, name = record["physical"][solver], schedule_name(record["cell"], solver)
        found = report(name)
        if found is None:
            if entry["time_s"] is not None and not exceeds_event_limit(instance):
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
