"""The front of time and energy as a table, in sentences and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvbound.report import numbers
from kvbound.report.tables import table

if TYPE_CHECKING:
    from rich.table import Table

_CSV = (
    "time_weight", "energy_weight", "time_s", "energy_j", "energy_delay_js", "least_energy_j", "objective",
    "bound", "bound_status", "gap",
)  # fmt: skip


def front_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of the points of a document, the fastest first."""
    time = numbers.Unit.of((point["time_s"] for point in points), numbers.TIMES)
    energy = numbers.Unit.of((point["energy_j"] for point in points), numbers.ENERGIES)
    columns = (
        ">weight of\ntime", ">weight of\nenergy", f">time\n{time.name}", f">energy\n{energy.name}",
        ">energy\nx time", ">gap\n%", f">proved least\nenergy {energy.name}",
    )  # fmt: skip
    rows = (
        (
            f"{point['objective']['time']:g}", f"{point['objective']['energy']:g}",
            time.show(point["time_s"]), energy.show(point["energy_j"]),
            f"{point['energy_delay_js']:.4g} Js", numbers.gap(point["result"]["gap"]).removesuffix(" %"),
            energy.show(point["least_energy_j"]),
        )
        for point in points
    )  # fmt: skip
    return table(columns, rows)


def verdict(points: Sequence[Mapping[str, Any]]) -> str:
    """Return sentences that sum up the table."""
    fast, frugal = points[0], points[-1]
    product = min(points, key=lambda point: float(point["energy_delay_js"]))
    text = "Each gap is to a certified bound of the point's objective; the last column is the energy that no "
    text += "schedule as fast is below. "
    if frugal["energy_j"] >= fast["energy_j"] or not fast["time_s"]:
        return f"{text}The fastest schedule also takes the least energy."
    slower = numbers.ratio(frugal["time_s"] / fast["time_s"])
    saved = numbers.share(1 - frugal["energy_j"] / fast["energy_j"])
    text += f"The schedule of least energy takes {saved} less than the fastest one, and {slower} its time. "
    weights = f"time={product['objective']['time']:g},energy={product['objective']['energy']:g}"
    return f"{text}Energy times time is least at {weights}."


def csv_text(points: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per point of a document, SI units."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for point in points:
        result, goal = point["result"], point["objective"]
        bound = result["bound"]
        writer.writerow((
            goal["time"], goal["energy"], point["time_s"], point["energy_j"], point["energy_delay_js"],
            point["least_energy_j"], result.get("objective", result["time_s"]),
            bound.get("objective", bound["time_s"]), bound["status"], result["gap"],
        ))  # fmt: skip
    return file.getvalue()
