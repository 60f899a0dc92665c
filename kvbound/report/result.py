"""One result in readable form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kvbound.report import numbers
from kvbound.report.tables import pairs_table
from kvbound.result import Bound, BoundStatus, Result, Status, title
from kvbound.trace.sequences import SequenceTime

if TYPE_CHECKING:
    from rich.table import Table


_PARTS = {"kv": "KV", "compute": "arithmetic", "static": "static power"}
"""Parts of the energy, in words."""


def heading(result: Result) -> str:
    """Return one line with the instance, the method and the status."""
    options = "".join(f" {key}={value}" for key, value in result.options.items() if value is not None)
    if result.instance.objective:
        options += f" objective {result.instance.objective}"
    end = str(result.status)
    if result.status is Status.UNKNOWN:
        found = "a bound, " if result.bound.value is not None else ""
        end = f"{found}no schedule" if result.measures is None else "the study's number, no schedule"
    limit = f", stopped by {result.termination.limit}" if result.termination.limit else ""
    took = numbers.seconds(result.wall_s)
    return f"{result.instance.name}: {title(result)}{options}: {end}{limit} (took {took})"


def describe(result: Result) -> Table:
    """Return the table of one result's numbers."""
    found = result.measures
    pairs: list[tuple[str, str]] = []
    if found is not None:
        steps = result.instance.decode_steps
        pairs = [
            ("time", f"{numbers.seconds(found.time_s)} for {steps:,} steps: {tokens_per_s(result)} tokens/s"),
            ("time per output token", _spread(found.tpot_s)),
            ("sequences", _sequences(found.sequences)),
            ("hit rate", _shares(found.hit_rate)),
            ("with weights", f"{numbers.share(found.hit_rate_with_weights)} in the fastest tier"),
            ("moved", _sizes(found.moved_bytes)),
            ("peak", _sizes(found.peak_bytes)),
            ("busy", _shares(found.utilisation or {})),
            ("energy", _energy(result)),
            ("energy-delay product", _energy_delay(result)),
            ("objective", "" if found.objective is None else numbers.rate(found.objective)),
        ]
    elif result.termination.message:
        pairs.append(("no schedule", result.termination.message))
    mixed = result.bound.objective is not None
    pairs.append(("lower bound of the objective" if mixed else "time lower bound", bound_text(result.bound)))
    if result.gap is not None:
        share, what = numbers.share(result.share_of_bound), "objective" if mixed else "time"
        pairs.append(("gap", f"{numbers.gap(result.gap)}; the bound is {share} of the {what}"))
    return pairs_table(pairs)


def bound_text(bound: Bound) -> str:
    """Return a bound's value, method and status; empty without a bound."""
    if bound.status is BoundStatus.NONE:
        return ""
    value = numbers.seconds(bound.time_s) if bound.objective is None else numbers.rate(bound.objective)
    return f"{value} ({bound.method}, {bound.status})"


def tokens_per_s(result: Result) -> str:
    """Return the schedule's tokens per second."""
    return numbers.rate(result.instance.outputs / result.time_s if result.time_s else None)


def _spread(tpot: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {numbers.seconds(value)}" for name, value in tpot.items())


def _sequences(sequences: Sequence[SequenceTime]) -> str:
    if not sequences:
        return ""
    times = [each.tpot_s for each in sequences]
    least, most = numbers.seconds(min(times)), numbers.seconds(max(times))
    return f"{len(sequences):,}, with mean times per output token from {least} to {most}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {numbers.share(value)}" for name, value in shares.items())


def _energy(result: Result) -> str:
    """Return the energy of the schedule, in all and per token, and the shares of its parts that are known."""
    parts = None if result.measures is None else result.measures.energy_j
    total, each = result.total_energy_j, result.energy_per_token_j
    if parts is None or total is None:
        return ""
    known = {
        _PARTS.get(name, name): part / (total or 1.0) for name, part in parts.items() if part is not None
    }
    per_token = "" if each is None else f", {numbers.joules(each)} per token"
    level, point = _estimate(result.instance.objective)
    return f"{numbers.joules(total)}{per_token}: {_shares(known)} ({level} level, {point} estimates)"


def _estimate(objective: str) -> tuple[str, str]:
    """Return the level and point at which energies count."""
    named = dict(part.split("=") for part in objective.split(",") if "=" in part)
    return named.get("level", "device"), named.get("point", "mid")


def _energy_delay(result: Result) -> str:
    """Return energy times decode time where another objective than time alone makes it a matter of choice."""
    total, time_s = result.total_energy_j, result.time_s
    if total is None or time_s is None or not result.instance.objective:
        return ""
    return f"{total * time_s:.4g} Js"


def _sizes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {numbers.size(value)}" for name, value in sizes.items())
