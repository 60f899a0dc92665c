"""Limits of decoding as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvbound.limit import (
    Decoding,
    all_in_first,
    decode_limit,
    layers_first,
    sequences_that_fit,
    sequential_s,
    weights_first,
)
from kvbound.report import numbers
from kvbound.report.tables import table
from kvbound.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "kvbound.limit/1"
_NEGLIGIBLE = 0.005


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
    limit, layers, weights = decode_limit(setting), layers_first(setting), weights_first(setting)
    fit = sequences_that_fit(setting)
    capped = dataclasses.replace(setting, batch=max(1, min(setting.batch, fit or 1)), share=1.0)
    dense = all_in_first(setting if fit is None else capped)

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
        "all_in_first_tier_tokens_per_s": rate(dense.time_s if dense else None, capped.batch),
        "sequential_tokens_per_s": rate(sequential_s(setting)),
        "whole_layers_tokens_per_s": rate(layers.time_s if layers else None),
        "whole_layers": layers.layers if layers else None,
        "kv_in_second_tier_tokens_per_s": rate(weights.time_s if weights else None),
    }


def describe(settings: Sequence[Decoding], measured: float | None = None) -> list[Table | str]:
    """Return the limits as text and a table; arguments as for `document`."""
    first, known = settings[0], document(settings, measured)
    near, far = (tier.name for tier in first.memory.tiers[:2])
    columns = (
        ">context", ">batch", ">KV\nGB", ">limit\nms/step", ">tokens/s\nat most", "what binds",
        f">all in\n{near}", ">tier after\ntier", ">whole\nlayers", f">KV in\n{far}",
    )  # fmt: skip
    rows = table(columns, [_cells(row) for row in known["rows"]])
    return [*_heading(first, known), "", rows, "", *_verdict(first, known)]


def _heading(first: Decoding, known: dict[str, Any]) -> list[str]:
    read = "all tokens" if first.share == 1 else f"{numbers.share(first.share)} of the tokens"
    near, fit = first.memory.tiers[0], known["rows"][0]["sequences_that_fit"]
    holds = f"{near.name} holds {format_bytes(near.capacity)}"
    if near.capacity is not None and near.capacity < first.llm.weight_bytes:
        holds += ", less than the weights"
    elif fit is not None:
        kept = first.context if first.allocated is None else first.allocated
        holds += f": the weights and {fit:,} sequence{'s' * (fit != 1)} of {kept:,} tokens"
    weights, kv = format_bytes(first.llm.weight_bytes), format_bytes(first.llm.kv_bytes(1))
    return [
        f"{first.llm.name} on {first.memory.name}, {read} read in every step",
        f"weights {weights}, KV {kv} a token; {holds}",
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rates = ("all_in_first_tier", "sequential", "whole_layers", "kv_in_second_tier")
    known = sorted(((share, name) for name, share in row["resources"].items()), reverse=True)
    return (
        numbers.count(row["context"]),
        numbers.count(row["batch"]),
        numbers.rate(row["kv_bytes"] / 1e9),
        numbers.rate(row["time_s"] * 1e3),
        numbers.rate(row["tokens_per_s"]),
        ", ".join(name for share, name in known if share >= _NEGLIGIBLE),
        *(numbers.rate(row[f"{name}_tokens_per_s"]) for name in rates),
    )


def _verdict(first: Decoding, known: dict[str, Any]) -> list[str]:
    row = known["rows"][0]
    served = (f"{format_bytes(size)} from {tier}" for tier, size in row["reads_bytes"].items() if size >= 0.5)
    batch = f"a batch of {first.batch:,}" if first.batch > 1 else "one sequence"
    batch += f" at {first.context:,} tokens"
    limit, measured = row["tokens_per_s"], known["measured_tokens_per_s"]
    if limit is None:
        return ["A step reads and writes nothing: there is no limit."]
    lines = [
        f"No placement decodes {batch} at more than {numbers.rate(limit)} tokens/s. "
        f"At that rate a step reads {', '.join(served) or 'nothing'}."
    ]
    if measured is not None:
        after = row["sequential_tokens_per_s"]
        also = (
            "" if after is None else f", and {numbers.share(measured / after)} of what tier after tier makes"
        )
        lines.append(
            f"{numbers.rate(measured)} tokens/s are {numbers.share(measured / limit)} of that{also}."
        )
    return lines + [_offload(first, known)] * (first.share < 1)


def _offload(first: Decoding, known: dict[str, Any]) -> str:
    """Return the first row in which a share read from all tiers can beat everything read from the first."""
    near, share = first.memory.tiers[0].name, numbers.share(first.share)
    for row in known["rows"]:
        limit, dense = row["tokens_per_s"], row["all_in_first_tier_tokens_per_s"]
        if limit is not None and (dense is None or limit > dense):
            here = f"at a batch of {row['batch']:,} and {row['context']:,} tokens"
            rates = f"at most {numbers.rate(limit)} tokens/s; all of them in {near}, {numbers.rate(dense)}"
            return f"Reading {share} of the tokens can pay {here}: {rates}."
    return f"Reading {share} of the tokens pays in no row of the table."
