"""The sizes of an instance in readable form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvbound import units
from kvbound.binding import Binding, binding
from kvbound.blocks import most_bytes
from kvbound.objective import TIME_ALONE
from kvbound.report import numbers
from kvbound.report.binding import placement_gains, summary
from kvbound.report.tables import pairs_table, table
from kvbound.report.trace import experts_named
from kvbound.trace import Trace
from kvbound.trace.statistics import batch_figures, expert_figures

if TYPE_CHECKING:
    from rich.table import Table

    from kvbound.instance import Instance


def figures(instance: Instance, bound: Binding | None = None) -> dict[str, Any]:
    """Return sizes and capacities as JSON-ready values, without generating a synthetic trace.

    Parameters
    ----------
    bound
        What `kvbound.binding.binding` returns, if that is known.
    """
    llm, counts = instance.llm, instance.token_read_counts()
    recorded = instance.workload if isinstance(instance.workload, Trace) else None
    kept = instance.item_bytes > 0
    past = float(instance.live[:-1, kept].mean())
    sizes, kv_bytes = instance.unit_sizes, most_bytes(instance.token_timelines, instance.item_bytes.tolist())
    limits = [
        None if room is None else room * instance.granularity * size
        for room, size in zip(instance.capacity_units, sizes, strict=True)
    ]
    formats = {"formats": dict(instance.formats)} if instance.formats else {}
    item_bytes = instance.item_bytes.tolist()
    placeable = int(llm.weight_bytes) - instance.resident_bytes
    return {
        "name": instance.name,
        "sha256": None if recorded is None else instance.sha256,
        "layers": instance.layers,
        "prefill_tokens": instance.workload.prefill_tokens,
        "decode_steps": instance.decode_steps,
        **batch_figures(instance.workload.timeline),
        "slots": instance.slots,
        "reads": int(counts.sum()),
        "reads_per_slot": float(counts.mean()),
        "share_of_past_read": float(counts[:, kept].mean() / past) if past else 0.0,
        "own_token_reads": 0 if recorded is None else int(recorded.own_reads().sum()),
        "item_bytes": item_bytes[0] if len(set(item_bytes)) == 1 else item_bytes,
        **formats,
        "kv_bytes": kv_bytes,
        "kv_bytes_read_per_slot": float((counts * instance.item_bytes).mean()),
        "weight_bytes": llm.weight_bytes,
        **({"placeable_weight_bytes": placeable} if placeable else {}),
        "weight_bytes_read_per_slot": _weight_reads(instance),
        **expert_figures(instance.workload.experts),
        "tiers": [
            {
                "name": tier.name,
                "capacity_bytes": tier.capacity,
                "room_for_kv_bytes": free,
                "room_for_kv_share": None
                if free is None or not kv_bytes or placeable
                else free * sizes[0] / (kv_bytes * size),
            }
            for tier, free, size in zip(instance.memory.tiers, limits, sizes, strict=True)
        ],
        "rules": instance.rules.to_mapping(),
        **({} if instance.objective == TIME_ALONE else {"objective": instance.objective.to_mapping()}),
        "ideal": None if (bound := bound or binding(instance)) is None else bound.to_mapping(),
    }


def describe(instance: Instance) -> list[Table | str]:
    """Return the sizes as text and tables."""
    bound = binding(instance)
    known = figures(instance, bound)
    made = "" if isinstance(instance.workload, Trace) else f" (synthetic, {instance.workload.kind})"
    tokens = instance.workload.prefill_tokens, instance.decode_steps, instance.workload.tokens
    shape = numbers.shape(instance.layers, *tokens)
    reads = f"{known['reads']:,}, per slot {known['reads_per_slot']:,.1f}"
    all_stay = all(timeline.all_stay for timeline in instance.timelines)
    past = "past tokens" if all_stay else "past tokens that exist"
    reads += f" or {numbers.share(known['share_of_past_read'])} of the {past}"
    kv, weights = known["kv_bytes_read_per_slot"], known["weight_bytes_read_per_slot"]
    pairs = [
        ("workload", f"{shape}, {instance.slots:,} slots{made}"),
        ("batch", numbers.batch(known)),
        ("reads", reads),
        ("own-token reads", _own(instance, known["own_token_reads"])),
        (
            "llm",
            f"{instance.llm.name}: {numbers.spread(instance.llm.kv_sizes)} B of KV per token and layer",
        ),
        ("formats", _formats(instance)),
        (
            "KV at the end" if all_stay else "KV at most",
            f"{units.format_bytes(known['kv_bytes'])}{_blocks(instance)}",
        ),
        ("weights", _weights(instance)),
        ("experts", experts_named(known)),
        ("read per slot", f"KV {units.format_bytes(kv)}, weights {units.format_bytes(weights)}"),
        ("memory", f"{instance.memory.name}: {_resources(instance)}"),
        ("rules", ", ".join(f"{key} {value}" for key, value in known["rules"].items())),
        ("objective", "" if instance.objective == TIME_ALONE else str(instance.objective)),
        ("ideal time", "" if bound is None else summary(instance, bound)),
        ("placement gains", "" if bound is None else placement_gains(bound.onset)),
        ("sha256", known["sha256"] or ""),
    ]
    return [f"{instance.name}\n", pairs_table(pairs), "", _tiers(instance, known["tiers"])]


def _weights(instance: Instance) -> str:
    resident, sizes = units.format_bytes(instance.resident_bytes), instance.chunks.blocks
    if not sizes.any():
        return f"{resident} resident"
    placed = units.format_bytes(int(instance.llm.weight_bytes) - instance.resident_bytes)
    largest = int((sizes * instance.item_bytes[:, None]).max())
    chunk = units.format_bytes(largest * instance.granularity)
    return f"{resident} resident, {placed} in {np.count_nonzero(sizes):,} chunks of at most {chunk}"


def _weight_reads(instance: Instance) -> float:
    """Return the mean bytes of weights that a slot reads, wherever they are."""
    if not instance.workload.expert_counts:
        return float(instance.llm.weight_reads.mean())
    return float((instance.weight_reads + instance.chunk_read_counts() * instance.item_bytes).mean())


def _own(instance: Instance, own: int) -> str:
    if not own:
        return ""
    return f"{own:,}, {'left out by physical accounting' if instance.physical else 'counted as misses'}"


def _blocks(instance: Instance) -> str:
    if instance.granularity == 1:
        return ""
    if not instance.uniform:
        return f" in blocks of {instance.granularity} tokens"
    size = units.format_bytes(instance.granularity * instance.unit_sizes[0])
    blocks = instance.most_held - int(instance.chunks.blocks.sum())
    return f" in {blocks:,} blocks of {size}"


def _formats(instance: Instance) -> str:
    pairs = zip(instance.memory.tiers, instance.unit_sizes, strict=True)
    parts = ((size * int(instance.units.max()), tier.name) for tier, size in pairs)
    up_to = "" if instance.uniform else "up to "
    return ", ".join(f"{up_to}{size:,} B in {tier}" for size, tier in parts if tier in instance.formats)


def _resources(instance: Instance) -> str:
    rates = instance.memory.resources.items()
    return ", ".join(f"{name} {units.format_bandwidth(rate)}" for name, rate in rates)


def _tiers(instance: Instance, capacities: list[dict[str, Any]]) -> Table:
    rows = []
    for tier, capacity in zip(instance.memory.tiers, capacities, strict=True):
        rows.append(
            (
                tier.name, numbers.capacity(tier.capacity), units.format_bytes(capacity["room_for_kv_bytes"]),
                numbers.share(capacity["room_for_kv_share"]),
                ", ".join(tier.reads), ", ".join(tier.writes) or numbers.UNKNOWN,
                units.format_seconds(tier.latency) if tier.latency else numbers.UNKNOWN,
            )
        )  # fmt: skip
    room = ">room for both" if instance.chunks.ids else ">room for KV"
    columns = ("tier", ">capacity", room, ">of the KV", "reads load", "writes load", ">latency")
    return table(columns, rows)
