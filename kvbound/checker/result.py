"""Verify what a result.json claims: against its schedule's replay, its certificate and the instance.

What depends on neither is not verified: method, seed and options, how the run ended, and what it used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kvbound.checker import fang2025
from kvbound.checker._inputs import Case, Rows, read_case
from kvbound.checker._report import Refused, Report
from kvbound.checker._result_form import OPTIONAL, PERCENTILES, SCHEMA, read_result

SAME = 1e-9
"""Relative difference of numbers that are the same."""
PROVED = 1e-4
"""Relative gap up to which a schedule may be called optimal, whatever gap the options ask for."""
_OF_A_SCHEDULE = ("tpot_s", "hit_rate", "hit_rate_with_weights", "moved_bytes", "peak_bytes", "utilisation")


def check_result(
    expanded: Mapping[str, Any],
    rows: Rows,
    document: object,
    *,
    schedule: Report | None = None,
    certificate: Report | None = None,
) -> Report:
    """Verify a result's claims; one sentence for each that is false.

    Parameters
    ----------
    expanded, rows
        As for `check_schedule`.
    document
        What result.json holds.
    schedule, certificate
        Reports of the files beside it, where there are such.

    Raises
    ------
    Malformed
        The document does not have the form of a result.
    """
    claims = read_result(document)
    try:
        case = read_case(expanded, rows)
    except Refused as refusal:
        return Report(SCHEMA, tuple(map(str, refusal.args)))
    needs_trace = bool(schedule or certificate)
    if schedule is None and claims["method"] == "best" and case.rules["accounting"] == "fang2025":
        schedule = fang2025.check_best(case, rows)  # the study's ideal has a time, but no schedule
    problems = [
        *_instance(case, rows, claims, needs_trace=needs_trace),
        *_schedule(case, claims, schedule),
        *_bound(claims["time_s"], claims["bound"], certificate),
        *_status(case, claims),
        *_derived(case, claims),
    ]
    if claims["energy_j"] is not None:
        problems.append("energy_j is given, but nothing here says what energy a byte takes")
    return Report(SCHEMA, tuple(problems), case.sha256)


def _instance(case: Case, rows: Rows, claims: Mapping[str, Any], *, needs_trace: bool) -> Iterator[str]:
    reads = sum(int(np.bitwise_count(row).sum(dtype=np.int64)) for layer in rows for row in layer)
    if case.rules["accounting"] == "physical":  # a token's read of itself is none
        step, token = np.arange(case.steps), case.prefill + np.arange(case.steps)
        reads -= sum(int((layer[step, token >> 3] >> (token & 7) & 1).sum(dtype=np.int64)) for layer in rows)
    own = {
        "sha256": case.sha256, "layers": case.layers, "prefill_tokens": case.prefill,
        "decode_steps": case.steps, "reads": reads,
    }  # fmt: skip
    for key, value in own.items():
        claim = claims["instance"][key]
        if claim != value and not (claim is None and not needs_trace):
            yield f"instance.{key} is claimed to be {claim!r}, but is {value!r}"


def _schedule(case: Case, claims: Mapping[str, Any], report: Report | None) -> Iterator[str]:
    """Compare what the result says of its schedule with the checker's own numbers."""
    if report is None:
        if claims["time_s"] is not None:
            yield f"time_s is {claims['time_s']!r}, but there is no schedule that takes it"
        yield from (
            f"{key} is given, but there is no schedule"
            for key in _OF_A_SCHEDULE
            if claims.get(key) is not None
        )
    elif claims["time_s"] is None:
        yield "time_s is null, but there is a schedule"
    elif report.time_s is not None:
        for key, own in _own(case, report).items():
            if key in claims or key not in OPTIONAL:
                yield from _differences(key, claims[key], own)


def _own(case: Case, report: Report) -> dict[str, Any]:
    """Return the checker's numbers in the result's form."""
    assert report.step_times_s is not None
    own: dict[str, Any] = {"time_s": report.time_s}
    points = np.percentile(report.step_times_s, [50, 95, 99]).tolist()
    own["tpot_s"] = dict(
        zip(
            PERCENTILES,
            [float(report.step_times_s.mean()), *points, float(report.step_times_s.max())],
            strict=True,
        )
    )
    hits, total = report.hit_bytes, 0.0 if report.hit_bytes is None else float(report.hit_bytes.sum())
    physical = case.rules["accounting"] == "physical"
    if hits is not None and (total or physical):
        own["hit_rate"] = dict(zip(case.names, (hits / (total or 1.0)).tolist(), strict=True))
    else:
        own["hit_rate"] = {}
    if report.mean_alpha is not None:
        own["hit_rate_with_weights"] = report.mean_alpha
    elif hits is not None:
        weights = float(case.weight_reads.sum()) * case.steps
        own["hit_rate_with_weights"] = (
            (float(hits[0]) + weights) / (total + weights) if total + weights else 0.0
        )
    if report.moved_bytes is not None:
        own["moved_bytes"] = dict(report.moved_bytes)
    if report.peak_bytes is not None:
        own["peak_bytes"] = dict(zip(case.names, report.peak_bytes, strict=True))
    if report.busy is not None:
        own["utilisation"] = dict(zip(case.resources, report.busy.tolist(), strict=True))
    return own


def _differences(field: str, claim: Any, own: Any) -> Iterator[str]:
    if claim is None:
        yield f"{field} is null, but there is a schedule"
    elif isinstance(own, dict):
        if set(claim) != set(own):
            yield f"{field} has {', '.join(map(ascii, claim))}, expected {', '.join(own) or 'nothing'}"
        else:
            for key, value in own.items():
                yield from _differences(f"{field}.{key}", claim[key], value)
    elif not (_same(claim, own) or abs(claim - own) < _near(field)):
        yield f"{field} is claimed to be {claim!r}, but the schedule's is {own!r}"


def _near(field: str) -> float:
    """How far a number may be off: weights may be fractions of a byte, busy shares are of the whole."""
    return 1.0 if "bytes" in field else SAME if "utilisation" in field else 0.0


def _bound(time_s: float | None, bound: Mapping[str, Any], certificate: Report | None) -> Iterator[str]:
    value, status = bound["time_s"], bound["status"]
    if (value is None) != (status == "none"):
        yield f"bound.status is {status!r}, but bound.time_s is {value!r}"
    if value is None:
        return
    if time_s is not None and value > time_s * (1 + SAME):
        yield f"bound.time_s is claimed to be {value!r}, above the schedule's time, {time_s!r}"
    # what a solver of schedules claims may be more than another's certificate beside it proves
    if status == "certified" or (certificate is not None and time_s is None):
        if certificate is None:
            yield "bound.status is 'certified', but there is no certificate"
        elif certificate.bound_s is not None and value > certificate.bound_s:
            proved = f"the certificate proves only {certificate.bound_s!r}"
            yield f"bound.time_s is claimed to be {value!r}, but {proved}"


def _status(case: Case, claims: Mapping[str, Any]) -> Iterator[str]:
    status, time_s, bound_s = claims["status"], claims["time_s"], claims["bound"]["time_s"]
    ideal = claims["method"] == "best" and case.rules["accounting"] == "fang2025"
    if (status in ("optimal", "feasible")) != (time_s is not None) and not (ideal and status == "unknown"):
        yield f"status is {status!r}, but time_s is {time_s!r}"
    elif status == "optimal" and (bound_s is None or time_s - bound_s > PROVED * (1 + SAME) * time_s):
        yield f"status is 'optimal', but the time {time_s!r} s and the bound {bound_s!r} s do not meet"
    if status == "infeasible" and _has_room(case):
        yield "status is 'infeasible', but there is room for the weights and for every block"


def _has_room(case: Case) -> bool:
    """Whether there is a schedule: blocks that all fit may stay where they start, or where they are born.

    The study's rules may find none all the same.
    """
    rooms, blocks = case.rooms, case.layers * -(-case.tokens // case.granularity)
    if case.rules["accounting"] != "physical" or (rooms[0] is not None and rooms[0] < 0):
        return False
    holding = rooms[-1:] if case.rules["copies"] == "inclusive" else rooms
    return sum(blocks if room is None else room for room in holding) >= blocks


def _derived(case: Case, claims: Mapping[str, Any]) -> Iterator[str]:
    """Compute again what follows from other fields."""
    time_s, bound_s = claims["time_s"], claims["bound"]["time_s"]
    both = time_s is not None and bound_s is not None
    own = {
        "gap": ((time_s - bound_s) / time_s if time_s else 0.0) if both else None,
        "tokens_per_s": case.steps / time_s if time_s else None,
        "tokens_per_s_bound": case.steps / bound_s if bound_s else None,
    }
    if "share_of_bound" in claims:
        own["share_of_bound"] = bound_s / time_s if both and time_s else None
    for key, value in own.items():
        claim = claims[key]
        if (claim is None) != (value is None) or (value is not None and not _same(claim, value)):
            yield f"{key} is claimed to be {claim!r}, but {value!r} follows from the times"


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-12 if abs(other) < 1 else 0.0)
