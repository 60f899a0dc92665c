"""Comparison of several methods on one instance."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvbound.report import numbers
from kvbound.report.result import bound_text, tokens_per_s
from kvbound.report.tables import table
from kvbound.result import Bound, Result, Status, ranked, strongest, title

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "kvbound.compare/1"
_WAYS = ("up", "down")
_CSV = (
    "method", "status", "time_s", "tokens_per_s", "tpot_mean_s", "bound_s", "bound_status", "bound_method",
    "ratio", "share_of_bound", "hit_rate", "moved_up_bytes", "moved_down_bytes", "wall_s",
)  # fmt: skip
_CSV_OBJECTIVE = "objective", "bound_objective"
_CSV_ENERGY = "weights_j", "kv_j", "moves_j", "compute_j", "static_j", "energy_per_token_j"


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Return the JSON document of several results."""
    return {"schema": SCHEMA, "results": [result.to_json() for result in results]}


def compare_table(results: Sequence[Result], *, options: Sequence[str] = ()) -> Table:
    """Return the table, a row per result.

    Parameters
    ----------
    options
        Names of options to show in separate columns.
    """
    results = ranked(results)
    against = reference(results)
    bounded = against is not None and against[0] == "bound"
    time = numbers.Unit.of(map(_time, results), numbers.TIMES)
    size = numbers.Unit.of((_moved(each, way) for each in results for way in _WAYS), numbers.SIZES)
    mixed = any(result.instance.objective for result in results) and bool(results)
    joules = numbers.Unit.of((each.total_energy_j for each in results), numbers.ENERGIES)
    columns = (
        "\nmethod", *(f">\n{name}" for name in options), "\nstatus", f">time\n{time.name}", ">tokens\n/s",
        *[f">energy\n{joules.name}", ">\nobjective"][: 2 * mixed],
        f">x\n{'bound' if against is None else against[0]}", *[">% of\nbound"][: bounded], ">tier-0\nhits %",
        *(f">{way}\n{size.name}" for way in _WAYS),
    )  # fmt: skip
    rows = (
        (
            title(each), *(f"{each.options.get(name, '')}" for name in options), _status(each),
            _bound_sign(each) * (not mixed) + time.show(_time(each)), tokens_per_s(each),
            *[joules.show(each.total_energy_j), _bound_sign(each) + numbers.rate(_value(each))][: 2 * mixed],
            numbers.ratio(_ratio(each, against)).rstrip("x"), *[_percent(each.share_of_bound)][: bounded],
            _hits(each), *(size.show(_moved(each, way)) for way in _WAYS),
        )
        for each in results
    )  # fmt: skip
    return table(columns, rows)


def _moved(result: Result, way: str) -> float | None:
    return None if result.measures is None else result.measures.moved_bytes[way]


def _time(result: Result) -> float | None:
    """Return the schedule's time, or the time lower bound if there is no schedule."""
    return result.bound.time_s if result.time_s is None else result.time_s


def _value(result: Result) -> float | None:
    """Return what the schedule costs, or its lower bound if there is no schedule."""
    return result.bound.value if result.value is None else result.value


def _bound_sign(result: Result) -> str:
    return ">= " if result.measures is None and result.bound.value is not None else ""


def _status(result: Result) -> str:
    if result.status is not Status.UNKNOWN:
        return str(result.status)
    return "bound" if result.measures is None else "no schedule"


def _hits(result: Result) -> str:
    if result.measures is None or not result.measures.hit_rate:
        return numbers.UNKNOWN
    return _percent(next(iter(result.measures.hit_rate.values())))


def _percent(share: float | None) -> str:
    return numbers.share(share).removesuffix(" %")


def reference(results: Sequence[Result]) -> tuple[str, float] | None:
    """Return name and time of the reference of ratios: the bound, the study's `best`, or the fastest."""
    bound = strongest(results)
    if bound.value is not None:
        return ("bound", bound.value) if bound.value else None
    timed = [result for result in ranked(results) if result.time_s]
    for result in timed:
        if result.method == "best":
            return "best", result.time_s or 0.0
    return ("fastest", timed[0].value or 0.0) if timed else None


def _ratio(result: Result, against: tuple[str, float] | None) -> float | None:
    return None if against is None or result.value is None else result.value / against[1]


def verdict(results: Sequence[Result]) -> str:
    """Return one or two sentences that sum up the table."""
    against = reference(results)
    timed = (result for result in ranked(results) if result.time_s is not None)
    found = [result for result in timed if result.status is not Status.UNKNOWN]
    if not found:
        return "No method found a schedule."
    if found[0].instance.objective:
        return _verdict_of_objective(found, against, strongest(results))
    if against is None:
        best, worst = found[0], found[-1]
        also = f"; {worst.method} takes {numbers.seconds(worst.time_s)}" if worst.time_s else ""
        return f"{best.method} takes {numbers.seconds(best.time_s)}; the time lower bound is 0{also}."
    fastest, slowest = found[0], found[-1]
    first, last = (numbers.ratio(_ratio(result, against)) for result in (fastest, slowest))
    if against[0] == "bound":
        rate = numbers.rate(fastest.instance.outputs / against[1])
        text = f"No schedule takes less than {bound_text(strongest(results))} or makes more than {rate} "
        text += f"tokens/s. {fastest.method} takes {first} that time lower bound{_busiest(fastest)}"
        end = f"; the largest gap is {slowest.method}'s, {last}"
        if last == first:
            end = "; so does every other schedule"
    elif against[0] == "best":
        text = f"best is the study's own number, no schedule. {fastest.method} takes {first} that time"
        end = f"; the slowest is {slowest.method}, {last}"
    else:
        text = f"No method gave a bound. The fastest is {fastest.method}"
        end = f"; the slowest, {slowest.method}, takes {last} its time"
    return f"{text}{'' if slowest is fastest else end}."


def _verdict_of_objective(found: Sequence[Result], against: tuple[str, float] | None, bound: Bound) -> str:
    """Return the sentences for another objective than time alone, on schedules, the best first."""
    best, worst = found[0], found[-1]
    goal = f"the objective {best.instance.objective}"
    if against is None or against[0] != "bound":
        return f"No method gave a bound of {goal} above 0. {best.method} is best, {worst.method} is worst."
    first, last = (numbers.ratio(_ratio(result, against)) for result in (best, worst))
    text = f"No schedule has less than {bound_text(bound)} of {goal}. {best.method} has {first} that"
    return f"{text}{'' if worst is best else f'; the largest gap is {worst.method}, {last}'}."


def _busiest(result: Result) -> str:
    busy = None if result.measures is None else result.measures.utilisation
    if not busy:
        return ""
    name = max(busy, key=busy.__getitem__)
    return f", with {name} busy {numbers.share(busy[name])} of the time"


def csv_text(results: Iterable[Mapping[str, Any]]) -> str:
    """Return one line per result of `document`, SI units; with energies where any is known."""
    results = list(results)
    known = any(result["energy_j"] for result in results)
    mixed = any("objective" in result["options"] for result in results)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV + _CSV_ENERGY * known + _CSV_OBJECTIVE * mixed)
    writer.writerows(
        _csv_row(result) + _csv_energy(result) * known + _csv_objective(result) * mixed for result in results
    )
    return file.getvalue()


def _csv_row(result: Mapping[str, Any]) -> tuple[object, ...]:
    time, bound, moved = result["time_s"], result["bound"], result["moved_bytes"] or {}
    value, least = _csv_objective(result)
    if least is None:
        value, least = time, bound["time_s"]
    return (
        result["method"], result["status"], time, result["tokens_per_s"],
        (result["tpot_s"] or {}).get("mean"), bound["time_s"], bound["status"], bound["method"],
        value / least if value and least else None, result.get("share_of_bound"),
        next(iter((result["hit_rate"] or {}).values()), None),
        *(moved.get(way) for way in _WAYS), result["wall_s"],
    )  # fmt: skip


def _csv_objective(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return result.get("objective"), result["bound"].get("objective")


def _csv_energy(result: Mapping[str, Any]) -> tuple[object, ...]:
    *parts, _ = (name.removesuffix("_j") for name in _CSV_ENERGY)
    found = result["energy_j"] or {}
    return *(found.get(part) for part in parts), result.get("energy_per_token_j")
