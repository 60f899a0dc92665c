"""Loading KV again, or recomputing it, as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.reload import kv_bytes, loads
from kvbound.report import numbers
from kvbound.report.tables import table
from kvbound.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "kvbound.reload/1"


def document(
    memory: Memory, llm: Llm, tokens: int, recompute_s: float | None = None, measured_s: float | None = None
) -> dict[str, Any]:
    """Return the JSON of loading the KV of a context from each tier.

    Parameters
    ----------
    recompute_s
        Seconds of recomputing the KV, measured or at least.
    measured_s
        Seconds that loading it was measured to take.
    """
    size = kv_bytes(llm, tokens)
    return {
        "schema": SCHEMA,
        "llm": llm.name,
        "memory": memory.name,
        "tokens": tokens,
        "kv_bytes": size,
        "rows": [
            {
                "tier": load.tier,
                "fits": load.fits,
                "time_s": load.time_s,
                "bytes_per_s": size / load.time_s if load.time_s else None,
                "binds": load.binds,
                "recompute_over_load": _ratio(recompute_s, load.time_s),
                "measured_over_load": _ratio(measured_s, load.time_s),
            }
            for load in loads(memory, llm, tokens)
        ],
        "recompute_s": recompute_s,
        "measured_s": measured_s,
        "break_even_bytes_per_s": size / recompute_s if recompute_s else None,
    }


def _ratio(value: float | None, least: float) -> float | None:
    return value / least if value is not None and least else None


def describe(known: dict[str, Any]) -> list[Table | str]:
    """Return a document of the schema as text and a table."""
    size = format_bytes(known["kv_bytes"])
    heading = f"{known['llm']} on {known['memory']}: the KV of {known['tokens']:,} tokens takes {size}"
    columns = [">from", ">at least", ">GB/s", "what\nbinds", "holds it"]
    columns += [">recompute\n/ load"] * (known["recompute_s"] is not None)
    columns += [">measured\n/ load"] * (known["measured_s"] is not None)
    return [heading, "", table(columns, [_cells(row, known) for row in known["rows"]]), "", *_verdict(known)]


def _cells(row: dict[str, Any], known: dict[str, Any]) -> tuple[str, ...]:
    rate = row["bytes_per_s"]
    cells = [
        row["tier"],
        numbers.seconds(row["time_s"]),
        "-" if rate is None else numbers.rate(rate / 1e9),
        row["binds"],
        "yes" if row["fits"] else "no",
    ]
    for name in ("recompute", "measured"):
        if known[f"{name}_s"] is not None:
            ratio = row[f"{name}_over_load"]
            cells.append("-" if ratio is None else numbers.ratio(ratio))
    return tuple(cells)


def _verdict(known: dict[str, Any]) -> list[str]:
    lines, recompute, measured = list[str](), known["recompute_s"], known["measured_s"]
    if recompute is not None:
        wins = [row["tier"] for row in known["rows"] if row["fits"] and row["time_s"] < recompute]
        can = (
            f"can be faster from {_all_of(wins)}" if wins else "cannot be faster from any tier that holds it"
        )
        even = numbers.rate(known["break_even_bytes_per_s"] / 1e9)
        taken = f"Recomputing takes {numbers.seconds(recompute)}: loading {can}."
        lines.append(f"{taken} Both take equally long at {even} GB/s.")
    if measured is not None:
        fastest = min(known["rows"], key=lambda row: row["time_s"])
        took = f"The measured {numbers.seconds(measured)}"
        if (times := fastest["measured_over_load"]) is not None:
            lines.append(f"{took} are {numbers.ratio(times)} the least time from {fastest['tier']}.")
        if beaten := [row["tier"] for row in known["rows"] if measured < row["time_s"]]:
            lines.append(f"No system is that fast from {_all_of(beaten)}: the KV came from elsewhere.")
    return lines


def _all_of(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
