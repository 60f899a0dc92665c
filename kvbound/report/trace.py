"""The statistics of a trace in readable form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvbound.report import numbers
from kvbound.report.tables import pairs_table, table

if TYPE_CHECKING:
    from rich.table import Table

    from kvbound.trace.statistics import LayerInfo, TraceInfo


def describe(info: TraceInfo, *, layers: bool = False) -> list[Table | str]:
    """Return the statistics of the whole trace and, with `layers`, a table of every layer's."""
    whole = info.overall
    past = "past tokens that exist" if "live_tokens_max" in info.batch else "past tokens"
    pairs = [
        ("shape", numbers.shape(info.layers, info.prefill_tokens, info.decode_steps, info.tokens)),
        ("batch", numbers.batch(info.batch)),
        ("source", info.source),
        ("licence", info.licence),
        ("reads per slot", f"{whole.reads_mean:,.1f} (from {whole.reads_min:,} to {whole.reads_max:,}), "
                           f"{numbers.share(whole.share_of_past)} of the {past}"),
        ("own-token reads", f"{whole.own_reads:,}, left out of all figures" if whole.own_reads else ""),
        ("overlap", "" if whole.overlap is None
                    else f"{numbers.share(whole.overlap)} of a step's reads are read again in the next"),
        ("reuse gap", _gap(whole)),
        ("age of reads", _ages(whole)),
        ("working set", _working_set(whole)),
        ("experts", experts_named(info.experts)),
    ]  # fmt: skip
    parts: list[Table | str] = [pairs_table(pairs)]
    return [*parts, "", _by_layer(info.by_layer)] if layers else parts


def _gap(info: LayerInfo) -> str:
    if info.reuse_gap is None:
        return ""
    steps = ", ".join(f"{name} {info.reuse_gap[name]:,.0f}" for name in ("p50", "p90", "p99"))
    return f"{steps} steps; {numbers.share(info.reuse_gap['share_1'])} are one step"


def _ages(info: LayerInfo) -> str:
    return ", ".join(f"{age}: {numbers.share(share)}" for age, share in info.age.items() if share)


def _working_set(info: LayerInfo) -> str:
    def name(window: str) -> str:
        return "all steps" if window == "all" else f"{window} step{'s' * (window != '1')}"

    sizes = ", ".join(f"{name(window)} {size:,.0f}" for window, size in info.working_set.items())
    return f"distinct tokens per layer in {sizes}"


def experts_named(known: Mapping[str, Any]) -> str:
    """Return what `kvbound.trace.statistics.expert_figures` says, if anything, in words."""
    if "experts" not in known:
        return ""
    figures = known["experts"]
    low, high = figures["named_min"], figures["named_max"]
    named = f"{figures['named_mean']:,.1f} per slot"
    named += f" (from {low:,} to {high:,})" if low < high else ""
    again = figures["overlap"]
    overlap = "" if again is None else f"; {numbers.share(again)} are read again in the next step"
    return f"{named} of {figures['distinct']:,.1f} per layer in all steps{overlap}"


def _by_layer(layers: Sequence[LayerInfo]) -> Table:
    rows = (
        (
            f"{number}",
            f"{info.reads_mean:,.1f}",
            numbers.share(info.share_of_past),
            numbers.share(info.overlap),
            numbers.UNKNOWN if info.reuse_gap is None else f"{info.reuse_gap['p90']:,.0f}",
            f"{info.working_set['all']:,.0f}",
        )
        for number, info in enumerate(layers)
    )
    return table((">layer", ">reads", ">of the past", ">overlap", ">reuse gap p90", ">distinct"), rows)
