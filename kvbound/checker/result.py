"""Verify what a result.json claims: against its schedule's replay, its certificate and the instance.

What depends on neither is taken as it stands: method, seed and options, how the run ended, what it took.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from kvbound.checker import fang2025
from kvbound.checker._inputs import Case, Rows, read_case
from kvbound.checker._report import Refused, Report

SCHEMA = "kvbound.result/1"
SAME = 1e-9
"""Relative difference of numbers that are the same."""
PROVED = 1e-6
"""Relative gap of what counts as proved to be optimal, unless the options allow more."""
_STATUS = ("optimal", "feasible", "infeasible", "unknown")
_VOUCHED = ("certified", "claimed", "none")
_PERCENTILES = ("mean", "p50", "p95", "p99", "max")
_OF_A_SCHEDULE = ("tpot_s", "hit_rate", "hit_rate_with_weights", "moved_bytes", "peak_bytes")


class Malformed(Exception):
    """A field that is not what the schema says: its dotted path, and what was expected."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(field, expected)
        self.field, self.expected = field, expected


def check_result(
    expanded: Mapping[str, Any],
    rows: Rows,
    document: object,
    *,
    schedule: Report | None = None,
    certificate: Report | None = None,
) -> Report:
    """Verify a result's claims, one sentence for each that does not hold.

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
        The document has not the form of a result.
    """
    claims = _read(document)
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
            f"{key} is given, but there is no schedule" for key in _OF_A_SCHEDULE if claims[key] is not None
        )
    elif claims["time_s"] is None:
        yield "time_s is null, but there is a schedule"
    elif report.time_s is not None:
        for key, own in _own(case, report).items():
            yield from _differences(key, claims[key], own)


def _own(case: Case, report: Report) -> dict[str, Any]:
    """Return the checker's numbers in the result's form."""
    assert report.step_times_s is not None
    own: dict[str, Any] = {"time_s": report.time_s}
    points = np.percentile(report.step_times_s, [50, 95, 99]).tolist()
    own["tpot_s"] = dict(
        zip(
            _PERCENTILES,
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
        own["peak_bytes"] = dict(zip(case.names, map(float, report.peak_bytes), strict=True))
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
    elif not (_same(claim, own) or ("bytes" in field and abs(claim - own) < 1)):  # weights may be fractions
        yield f"{field} is claimed to be {claim!r}, but the schedule's is {own!r}"


def _bound(time_s: float | None, bound: Mapping[str, Any], certificate: Report | None) -> Iterator[str]:
    value, status = bound["time_s"], bound["status"]
    if (value is None) != (status == "none"):
        yield f"bound.status is {status!r}, but bound.time_s is {value!r}"
    if value is None:
        return
    if time_s is not None and value > time_s * (1 + SAME):
        yield f"bound.time_s is claimed to be {value!r}, above the schedule's time, {time_s!r}"
    if status == "certified":
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
    elif status == "optimal":
        wanted = claims["options"].get("gap")
        allowed = max(PROVED, wanted if _number(wanted) else 0.0)
        if bound_s is None or time_s - bound_s > allowed * time_s:
            yield f"status is 'optimal', but the time {time_s!r} s and the bound {bound_s!r} s do not meet"
    if status == "infeasible" and _fits_the_last(case):
        yield f"status is 'infeasible', but everything fits {case.names[-1]}, which has no limit"


def _fits_the_last(case: Case) -> bool:
    """Whether any instance of this form has a schedule; the study's rules may find none all the same."""
    first, last = case.capacity[0], case.capacity[-1]
    unlimited = last is None or last == math.inf
    return (
        case.rules["accounting"] == "physical" and unlimited and (first is None or case.weight_bytes <= first)
    )


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


def _read(document: object) -> Mapping[str, Any]:
    """Return the document if every field has its type."""
    if not isinstance(document, Mapping):
        raise Malformed("", f"a table of named fields, not {document!r:.60}")
    for path, (expected, holds) in _FORM.items():
        at: Any = document
        *tables, key = path.split(".")
        for table in tables:
            at = at[table]  # a table, as its own line says
        if key not in at:
            if path in _OPTIONAL:
                continue
            raise Malformed(path, f"{expected}, but the field is missing")
        if not holds(at[key]):
            raise Malformed(path, f"{expected}, not {at[key]!r:.60}")
    return document


_Test = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _amount(value: Any) -> bool:
    return _number(value) and value >= 0


def _or_null(holds: _Test) -> _Test:
    return lambda value: value is None or holds(value)


def _table_of(holds: _Test, *keys: str) -> tuple[str, _Test]:
    """A table of such values, of these names or of any."""
    what = "integers >= 0" if holds is _count else "numbers >= 0"
    names = f" ({', '.join(keys)})" if keys else ""

    def fits(value: Any) -> bool:
        known = isinstance(value, Mapping) and (not keys or set(value) == set(keys))
        return known and all(map(holds, value.values()))

    return f"a table of {what}{names}, or null", _or_null(fits)


_TEXT = "text", lambda value: isinstance(value, str)
_TEXT_OR_NULL = "text or null", _or_null(_TEXT[1])
_TABLE = "a table of named fields", lambda value: isinstance(value, Mapping)
_COUNT = "an integer >= 0", _count
_AMOUNT = "a finite number >= 0", _amount
_AMOUNT_OR_NULL = "a finite number >= 0, or null", _or_null(_amount)
_NUMBER_OR_NULL = "a finite number, or null", _or_null(_number)


def _one_of(*values: str) -> tuple[str, _Test]:
    return f"one of {', '.join(map(repr, values))}", lambda value: isinstance(value, str) and value in values


_FORM: Mapping[str, tuple[str, _Test]] = {
    "schema": _one_of(SCHEMA),
    "kvbound_version": _TEXT,
    "instance": _TABLE,
    "instance.name": _TEXT,
    "instance.sha256": (
        "64 hexadecimal digits, or null",
        _or_null(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))),
    ),
    "instance.layers": _COUNT,
    "instance.prefill_tokens": _COUNT,
    "instance.decode_steps": _COUNT,
    "instance.reads": _COUNT,
    "method": _TEXT,
    "seed": _COUNT,
    "options": _TABLE,
    "status": _one_of(*_STATUS),
    "termination": _TABLE,
    "termination.reason": _TEXT,
    "termination.limit": _TEXT_OR_NULL,
    "time_s": _AMOUNT_OR_NULL,
    "bound": _TABLE,
    "bound.time_s": _AMOUNT_OR_NULL,
    "bound.status": _one_of(*_VOUCHED),
    "bound.method": _TEXT_OR_NULL,
    "gap": _NUMBER_OR_NULL,
    "share_of_bound": _NUMBER_OR_NULL,
    "tokens_per_s": _AMOUNT_OR_NULL,
    "tokens_per_s_bound": _AMOUNT_OR_NULL,
    "tpot_s": _table_of(_amount, *_PERCENTILES),
    "hit_rate": _table_of(_amount),
    "hit_rate_with_weights": _AMOUNT_OR_NULL,
    "moved_bytes": _table_of(_count, "up", "down"),
    "energy_j": ("a table of named fields, or null", _or_null(_TABLE[1])),
    "peak_bytes": _table_of(_count),
    "wall_s": _AMOUNT,
    "peak_rss_bytes": _COUNT,
    "kernel": _TEXT,
}
"""Every field by its dotted path, what is expected there, and whether a value is that."""
_OPTIONAL = ("share_of_bound",)
