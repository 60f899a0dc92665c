"""Verify the claims of a result.json against its instance, its certificate and the replay of its schedule.

Claims that depend on none of these are not verified: method, seed, options, termination, run time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kvbound.checker import fang2025
from kvbound.checker.energy import false_energies
from kvbound.checker.inputs import Case, Rows, read_case
from kvbound.checker.report import Ints, Refused, Report
from kvbound.checker.result_form import OPTIONAL, PERCENTILES, SCHEMA, SEQUENCE, read_result

EQUAL = 1e-9
"""Relative difference up to which numbers are equal."""
OPTIMAL_GAP = 1e-4
"""Relative gap up to which a schedule may be called optimal, whatever gap the options ask for."""
_NEAR = 1e-7
"""Relative difference up to which values of an objective are equal."""
_SCHEDULE_FIELDS = (
    "tpot_s", "hit_rate", "hit_rate_with_weights", "moved_bytes", "peak_bytes", "utilisation", "energy_j",
    "sequences",
)  # fmt: skip


def check_result(
    expanded: Mapping[str, Any],
    rows: Rows,
    document: object,
    *,
    schedule: Report | None = None,
    certificate: Report | None = None,
    proof: Report | None = None,
    labels: Sequence[int] | Ints | None = None,
) -> Report:
    """Verify a result's claims; each false claim is a problem of the report.

    Parameters
    ----------
    expanded, rows
        As for `check_schedule`.
    document
        The parsed result.json.
    schedule, certificate, proof
        Reports on the files beside it, `proof` on a tree of certificates; None where there is no such file.
    labels
        The sequence of each token, which the expanded instance states for blocks of several tokens only.

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
    needs_trace = bool(schedule or certificate or proof)
    if schedule is None and claims["method"] == "best" and case.rules["accounting"] == "fang2025":
        schedule = fang2025.check_best(case, case.trace)  # the study's ideal has a time, but no schedule
    problems = [
        *_instance(case, claims, needs_trace=needs_trace),
        *_schedule(case, claims, schedule),
        *_sequences(case, claims, schedule, expanded["trace"].get("sequence", labels)),
        *_energies(case, claims, schedule),
        *_objective(case, claims, schedule),
        *_bound(case, claims, [each for each in (certificate, proof) if each]),
        *_status(case, claims),
        *_derived(case, claims),
    ]
    return Report(SCHEMA, tuple(problems), case.sha256)


def _instance(case: Case, claims: Mapping[str, Any], *, needs_trace: bool) -> Iterator[str]:
    if case.rules["accounting"] == "physical":  # reads of the step's own tokens do not count
        reads = sum(sum(case.past_reads(layer).tolist()) for layer in range(case.layers))
    else:
        reads = sum(int(np.bitwise_count(row).sum(dtype=np.int64)) for layer in case.trace for row in layer)
    prefill = case.prefill - case.first
    recomputed = {
        "sha256": case.sha256, "layers": case.layers, "prefill_tokens": prefill, "decode_steps": case.steps,
        "reads": reads, "tokens": case.tokens - case.first, "outputs": int(case.life.outputs.sum()),
    }  # fmt: skip
    # left out where one token is born in every step
    claimed = {"tokens": prefill + case.steps, "outputs": case.steps} | claims["instance"]
    for key, value in recomputed.items():
        claim = claimed[key]
        if claim != value and not (claim is None and not needs_trace):
            yield f"instance.{key} is claimed to be {claim!r}, but is {value!r}"


def _schedule(case: Case, claims: Mapping[str, Any], report: Report | None) -> Iterator[str]:
    """Compare the result's claims about its schedule with the recomputed numbers."""
    if report is None:
        if claims["time_s"] is not None:
            yield f"time_s is {claims['time_s']!r}, but there is no schedule that takes it"
        yield from (
            f"{key} is given, but there is no schedule"
            for key in _SCHEDULE_FIELDS
            if claims.get(key) is not None
        )
    elif claims["time_s"] is None:
        yield "time_s is null, but there is a schedule"
    elif report.time_s is not None:
        for key, recomputed in _recomputed(case, report).items():
            if not report.one_split and key in ("time_s", "tpot_s"):
                continue  # see _objective
            if key in claims or key not in OPTIONAL:
                yield from _differences(key, claims[key], recomputed)


def _value(case: Case, claims: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return what the schedule is claimed to cost, and its bound, of what the instance minimises."""
    if case.objective.time_alone:
        return claims["time_s"], claims["bound"]["time_s"]
    return claims.get("objective"), claims["bound"].get("objective")


def _objective(case: Case, claims: Mapping[str, Any], report: Report | None) -> Iterator[str]:
    """Verify the claims about an objective other than time alone.

    Where several splits of reads cost the same, time and energy are those of one of them: together they make
    up the objective, and the time is at least that of the fastest split.
    """
    value, goal = claims.get("objective"), case.objective
    if goal.time_alone:
        if value is not None or "objective" in claims["bound"]:
            yield "objective is given, but the instance minimises time alone"
        return
    if claims["bound"]["time_s"] is not None:
        yield "bound.time_s is given, but the instance does not minimise time alone"
    if (value is None) != (claims["time_s"] is None):
        yield f"objective is {value!r}, but time_s is {claims['time_s']!r}"
        return
    if value is None or report is None or report.objective is None:
        return
    if not _near(value, report.objective):
        yield f"objective is claimed to be {value!r}, but the schedule's is {report.objective!r}"
    if report.one_split:
        return
    time_s, spent = claims["time_s"], claims["energy_j"]
    if report.least_s is not None and time_s < report.least_s * (1 - EQUAL):
        yield f"time_s is claimed to be {time_s!r}, but no split of reads takes less than {report.least_s!r}"
    if spent is not None:
        energy_j = math.fsum(each for part, each in spent.items() if part != "compute")
        if not _near(goal.value(time_s, energy_j), value):
            yield f"objective is claimed to be {value!r}, but its time and energy make it another"
    mean = claims["tpot_s"]["mean"] if claims["tpot_s"] else None
    if mean is not None and not _equal(mean * case.steps, time_s):
        yield f"tpot_s.mean is claimed to be {mean!r}, but time_s is {time_s!r} for {case.steps} steps"


def _near(claim: float, value: float) -> bool:
    """Whether values of an objective agree, which take more roundings than times."""
    return math.isclose(claim, value, rel_tol=_NEAR)


def _sequences(
    case: Case, claims: Mapping[str, Any], report: Report | None, labels: Sequence[int] | Ints | None
) -> Iterator[str]:
    """Compare the result's claims about the sequences of a batch with the recomputed numbers."""
    claimed = claims.get("sequences")
    if claimed is None or report is None or report.step_times_s is None or not report.one_split:
        return
    found = [] if labels is None else _decoded(case, np.asarray(labels))
    if len(claimed) != len(found):
        yield f"sequences has {len(claimed)} entries, but {len(found)} follow from the trace"
        return
    for number, (claim, (label, first, last, outputs)) in enumerate(zip(claimed, found, strict=True)):
        time_s = math.fsum(report.step_times_s[first : last + 1].tolist())
        rate = outputs / time_s if time_s else None
        figures = label, outputs, first, last, time_s, time_s / outputs, rate
        for key, value in zip(SEQUENCE, figures, strict=True):
            if not _same(claim[key], value):
                yield f"sequences.{number}.{key} is claimed to be {claim[key]!r}, but is {value!r}"


def _energies(case: Case, claims: Mapping[str, Any], report: Report | None) -> Iterator[str]:
    """Compare the result's claims about energy with the recomputed ones; early results have none."""
    claim, outputs = claims["energy_j"], int(case.life.outputs.sum())
    if claim is not None and report is not None and report.time_s is not None:
        time_s = report.time_s if report.one_split else claims["time_s"] or 0.0
        yield from false_energies(case.energies, report.energy, claim, outputs, time_s)
    total = None if claim is None or not outputs else math.fsum(filter(None, claim.values())) / outputs
    stated = claims.get("energy_per_token_j", total)
    if (stated is None) != (total is None) or not math.isclose(stated or 0.0, total or 0.0, rel_tol=EQUAL):
        yield f"energy_per_token_j is claimed to be {stated!r}, but {total!r} follows from energy_j"


def _decoded(case: Case, labels: Ints) -> list[tuple[int, int, int, int]]:
    """Return label, first and last step and number of outputs of the sequences of which tokens are decoded.

    Nothing where it is not clear which births are outputs: all of a step, or all but those of sequences that
    begin in it, their prompts.
    """
    born, outputs, births = case.life.born[case.first :], case.life.outputs, case.life.births
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    steps = [born[tokens] for tokens in sorted(parts, key=lambda tokens: int(tokens[0]))]
    begin = [int(each[0]) for each in steps]
    prompts = np.zeros_like(births)
    for first, each in zip(begin, steps, strict=True):
        if first >= 0:
            prompts[first] += np.count_nonzero(each == first)
    every = outputs == births
    if len(steps) < 2 or not np.all(every | (outputs == births - prompts)):
        return []
    found = []
    for label, (first, each) in enumerate(zip(begin, steps, strict=True)):
        start = first if first >= 0 and every[first] else first + 1
        if number := int(np.count_nonzero(each >= start)):
            found.append((label, start, int(each[-1]), number))
    return found


def _recomputed(case: Case, report: Report) -> dict[str, Any]:
    """Return the report's numbers in the form of a result."""
    assert report.step_times_s is not None
    recomputed: dict[str, Any] = {"time_s": report.time_s}
    points = np.percentile(report.step_times_s, [50, 95, 99]).tolist()
    recomputed["tpot_s"] = dict(
        zip(
            PERCENTILES,
            [float(report.step_times_s.mean()), *points, float(report.step_times_s.max())],
            strict=True,
        )
    )
    hits, total = report.hit_bytes, 0.0 if report.hit_bytes is None else float(report.hit_bytes.sum())
    physical = case.rules["accounting"] == "physical"
    if hits is not None and (total or physical):
        recomputed["hit_rate"] = dict(zip(case.names, (hits / (total or 1.0)).tolist(), strict=True))
    else:
        recomputed["hit_rate"] = {}
    if report.mean_alpha is not None:
        recomputed["hit_rate_with_weights"] = report.mean_alpha
    elif hits is not None:
        weights = float(case.weight_reads.sum()) * case.steps
        recomputed["hit_rate_with_weights"] = (
            (float(hits[0]) + weights) / (total + weights) if total + weights else 0.0
        )
    if report.moved_bytes is not None:
        recomputed["moved_bytes"] = dict(report.moved_bytes)
    if report.peak_bytes is not None:
        recomputed["peak_bytes"] = dict(zip(case.names, report.peak_bytes, strict=True))
    if report.busy is not None:
        recomputed["utilisation"] = dict(zip(case.resources, report.busy.tolist(), strict=True))
    return recomputed


def _differences(field: str, claim: Any, recomputed: Any) -> Iterator[str]:
    if claim is None:
        yield f"{field} is null, but there is a schedule"
    elif isinstance(recomputed, dict):
        if set(claim) != set(recomputed):
            yield f"{field} has {', '.join(map(ascii, claim))}, expected {', '.join(recomputed) or 'nothing'}"
        else:
            for key, value in recomputed.items():
                yield from _differences(f"{field}.{key}", claim[key], value)
    elif not (_equal(claim, recomputed) or abs(claim - recomputed) < _tolerance(field)):
        yield f"{field} is claimed to be {claim!r}, but the schedule's is {recomputed!r}"


def _tolerance(field: str) -> float:
    """Return a field's absolute tolerance: weights may be fractions of a byte, utilisation is a share."""
    return 1.0 if "bytes" in field else EQUAL if "utilisation" in field else 0.0


def _bound(case: Case, claims: Mapping[str, Any], proofs: Sequence[Report]) -> Iterator[str]:
    (time_s, value), status = _value(case, claims), claims["bound"]["status"]
    name = "time_s" if case.objective.time_alone else "objective"
    what = "time" if case.objective.time_alone else "objective"
    if (value is None) != (status == "none"):
        yield f"bound.status is {status!r}, but bound.{name} is {value!r}"
    if value is None:
        return
    if time_s is not None and value > time_s * (1 + EQUAL):
        yield f"bound.{name} is claimed to be {value!r}, above the schedule's {what}, {time_s!r}"
    # an uncertified bound of a schedule's solver may exceed what another method's certificate proves
    if status == "certified" or (proofs and time_s is None):
        proved = [each.bound_s for each in proofs if each.bound_s is not None]
        if not proofs:
            yield "bound.status is 'certified', but there is no certificate"
        elif proved and value > max(proved):
            least = f"the certificate proves only {max(proved)!r}"
            yield f"bound.{name} is claimed to be {value!r}, but {least}"


def _status(case: Case, claims: Mapping[str, Any]) -> Iterator[str]:
    status, (time_s, bound_s) = claims["status"], _value(case, claims)
    ideal = claims["method"] == "best" and case.rules["accounting"] == "fang2025"
    if (status in ("optimal", "feasible")) != (time_s is not None) and not (ideal and status == "unknown"):
        yield f"status is {status!r}, but time_s is {claims['time_s']!r}"
    elif status == "optimal" and (
        bound_s is None or time_s is None or time_s - bound_s > OPTIMAL_GAP * (1 + EQUAL) * time_s
    ):
        both = f"the time {time_s!r} s and the bound {bound_s!r} s"
        if not case.objective.time_alone:
            both = f"the objective {time_s!r} and its bound {bound_s!r}"
        yield f"status is 'optimal', but {both} do not meet"
    if status == "infeasible" and _has_room(case):
        yield "status is 'infeasible', but there is room for the weights and for every block"


def _has_room(case: Case) -> bool:
    """Whether a schedule surely exists: if all blocks fit at all times, each may stay in its first tier.

    False under the study's accounting, whose rules may still fail to fill the tiers.
    """
    limits, inclusive = case.room, case.rules["copies"] == "inclusive"
    if case.rules["accounting"] != "physical" or (limits[0] is not None and limits[0] < 0):
        return False
    holding = slice(-1, None) if inclusive else slice(None)
    held = np.stack([life.held_blocks for life in case.lives], axis=1)  # (1 + steps, layers)
    units = case.unit_counts[:, holding].max(axis=1)
    later = np.cumsum((np.diff(held, axis=0) * units).ravel())
    most = int((held[0] * units).sum()) + max(int(later.max()), 0)
    # a block finds no room only where each tier holds more than its limit less the block's units
    blocks = np.array([life.chunks.max(initial=1) for life in case.lives])
    largest = max(1, int((units * blocks * held.any(axis=0)).max()))
    filled = [most if limit is None else max(limit - largest + 1, 0) for limit in limits[holding]]
    return sum(filled) > most - largest


def _derived(case: Case, claims: Mapping[str, Any]) -> Iterator[str]:
    """Recompute the fields that follow from others."""
    (value, least), time_s, bound_s = _value(case, claims), claims["time_s"], claims["bound"]["time_s"]
    outputs = int(case.life.outputs.sum())
    gap, part = None, None
    if value is not None and least is not None:
        gap, part = ((value - least) / value, least / value) if value else (0.0, None)
    recomputed = {
        "gap": gap,
        "tokens_per_s": outputs / time_s if time_s else None,
        "tokens_per_s_bound": outputs / bound_s if bound_s else None,
    }
    if "share_of_bound" in claims:
        recomputed["share_of_bound"] = part
    for key, value in recomputed.items():
        claim = claims[key]
        if (claim is None) != (value is None) or (value is not None and not _equal(claim, value)):
            yield f"{key} is claimed to be {claim!r}, but {value!r} follows from the times"


def _same(claim: float | None, value: float | None) -> bool:
    return claim is value if claim is None or value is None else _equal(claim, value)


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=EQUAL, abs_tol=1e-12 if abs(other) < 1 else 0.0)
