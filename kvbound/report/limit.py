"""Limits of decoding as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvbound.limit import (
    Decoding,
    all_in_first_s,
    decode_limit,
    layers_first_s,
    layers_that_fit,
    sequences_that_fit,
    sequential_s,
    weights_first_s,
)
from kvbound.report import numbers
from kvbound.report.binding import largest
from kvbound.report.tables import table
from kvbound.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "kvbound.limit/1"
_PAYS = 1.05
"""Ratio of rates from which KV in other tiers than the first is said to pay."""


def document(settings: Sequence[Decoding], measured: float | None = None) -> dict[str, Any]:
    """Return the JSON of the limits of a model on a memory at several contexts and batches.

    Parameters
    ----------
    measured
        Tokens/s measured in the first setting.
    """
    first, rows = settings[0], [_row(setting) for setting in settings]
    limit = rows[0]["tokens_per_s"]
    return {
        "schema": SCHEMA,
        "llm": first.llm.name,
        "memory": first.memory.name,
        "share": first.share,
        "weight_bytes": int(first.llm.weight_bytes),
        "rows": rows,
        "measured_tokens_per_s": measured,
        "share_of_limit": measured / limit if measured and limit else None,
    }


def _row(setting: Decoding) -> dict[str, Any]:
    limit, layers = decode_limit(setting), layers_first_s(setting)
    fit = sequences_that_fit(setting)
    capped = setting if fit is None else dataclasses.replace(setting, batch=max(1, min(setting.batch, fit)))

    def rate(seconds: float | None, batch: int = setting.batch) -> float | None:
        return batch / seconds if seconds else None

    return {
        "context": setting.context,
        "allocated": setting.context if setting.allocated is None else setting.allocated,
        "batch": setting.batch,
        "kv_bytes": setting.kv_bytes,
        "sequences_that_fit": fit,
        "time_s": limit.time_s,
        "tokens_per_s": rate(limit.time_s),
        "reads_bytes": dict(limit.reads),
        "resources": dict(limit.resources),
        "all_in_first_tier_tokens_per_s": rate(all_in_first_s(capped), capped.batch),
        "sequential_tokens_per_s": rate(sequential_s(setting)),
        "whole_layers_tokens_per_s": rate(layers),
        "whole_layers": None if layers is None else layers_that_fit(setting),
        "kv_in_second_tier_tokens_per_s": rate(weights_first_s(setting)),
    }


def describe(settings: Sequence[Decoding], measured: float | None = None) -> list[Table | str]:
    """Return the limits as text and a table; arguments as for `document`."""
    first, known = settings[0], document(settings, measured)
    near, far = (tier.name for tier in first.memory.tiers[:2])
    columns = (
        ">context", ">batch", ">ms\n/step", ">tokens/s\nat most", "what\nbinds", f">all in\n{near}",
        ">tier by\ntier", ">whole\nlayers", f">KV in\n{far}",
    )  # fmt: skip
    rows = table(columns, [_cells(row) for row in known["rows"]])
    return [*_heading(first, known), "", rows, "", *_verdict(first, known)]


def _heading(first: Decoding, known: dict[str, Any]) -> list[str]:
    read = "all tokens" if first.share == 1 else f"{numbers.exact_share(first.share)} of the tokens"
    near, row = first.memory.tiers[0], known["rows"][0]
    holds, fit = f"{near.name} holds {format_bytes(near.capacity)}", row["sequences_that_fit"]
    if near.capacity is not None and near.capacity < first.llm.weight_bytes:
        holds += ", less than the weights"
    elif fit is not None:
        number = f"{fit:,} sequence{'s' * (fit != 1)}" if fit else "no sequence"
        holds += f": the weights and {number} of {row['allocated']:,} tokens"
    weights, kv = format_bytes(first.llm.weight_bytes), format_bytes(first.llm.kv_bytes(1))
    return [
        f"{first.llm.name} on {first.memory.name}, {read} read in every step",
        f"weights {weights}, KV {kv} a token; {holds}",
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rates = ("all_in_first_tier", "sequential", "whole_layers", "kv_in_second_tier")
    return (
        numbers.count(row["context"]),
        numbers.count(row["batch"]),
        numbers.rate(row["time_s"] * 1e3),
        numbers.at_most(row["tokens_per_s"]),
        ", ".join(name for name, _ in largest(row["resources"])),
        *(numbers.rate(row[f"{name}_tokens_per_s"]) for name in rates),
    )


def _verdict(first: Decoding, known: dict[str, Any]) -> list[str]:
    row = known["rows"][0]
    served = [f"{format_bytes(size)} from {tier}" for tier, size in row["reads_bytes"].items() if size >= 0.5]
    batch = f"a batch of {first.batch:,}" if first.batch > 1 else "one sequence"
    limit, measured = row["tokens_per_s"], known["measured_tokens_per_s"]
    if limit is None:
        return ["A step reads and writes nothing: there is no limit."]
    lines = [
        f"No placement decodes {batch} with {first.context:,} tokens of context at more than "
        f"{numbers.at_most(limit)} tokens/s. A step then reads, for example, "
        f"{', '.join(served) or 'nothing'}."
    ]
    if measured is not None:
        lines.append(_measured(measured, limit, row["sequential_tokens_per_s"]))
    return lines + [_offload(first, known)] * (len(known["rows"]) > 1 and first.share < 1)


def _measured(measured: float, limit: float, sequential: float | None) -> str:
    """Return which share of the limit a measured rate is."""
    rate = f"The measured {numbers.rate(measured)} tokens/s"
    if measured > limit:
        return f"{rate} exceed the limit: the number, or a setting, is not what was run."
    also = (
        "" if sequential is None else f", and {numbers.share(measured / sequential)} of the rate tier by tier"
    )
    return f"{rate} are {numbers.share(measured / limit)} of the limit{also}."


def _offload(first: Decoding, known: dict[str, Any]) -> str:
    """Return the first row in which KV in all tiers can beat as many sequences as fit into the first."""
    near, share = first.memory.tiers[0].name, numbers.exact_share(first.share)
    for row in known["rows"]:
        limit, alone = row["tokens_per_s"], row["all_in_first_tier_tokens_per_s"]
        if limit is not None and limit > _PAYS * (alone or 0.0):
            here = f"a batch of {row['batch']:,} with {row['context']:,} tokens"
            other = "no sequence fits" if alone is None else f"those that fit make {numbers.rate(alone)}"
            rates = f"{numbers.at_most(limit)} tokens/s at most, where with all KV in {near} {other}"
            return f"With {share} read, KV in other tiers can pay at {here}: {rates}."
    return f"With {share} read, KV in other tiers pays in no row of the table."
