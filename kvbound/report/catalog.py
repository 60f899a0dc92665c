"""The catalog in readable form, each number with its source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kvbound import units
from kvbound.catalog.composed import PLUS
from kvbound.memory import ENERGY_POINTS, Energy
from kvbound.report import numbers
from kvbound.report.tables import pairs_table, table

if TYPE_CHECKING:
    from rich.table import Table

    from kvbound.catalog import Gpu
    from kvbound.llm.config import Architecture
    from kvbound.llm.model import Llm
    from kvbound.memory import Memory
    from kvbound.units import Quantity


def memories_table(memories: Sequence[Memory]) -> Table:
    """Return a row per memory: its tiers and the bandwidths of its resources."""
    rows = (
        (
            memory.name,
            " | ".join(_tier(tier.name, tier.capacity) for tier in memory.tiers),
            _rates(memory.resources),
        )
        for memory in memories
    )
    return table(("memory", "tiers, fast to slow", "GB/s"), rows)


def _tier(name: str, capacity: float | None) -> str:
    return name if capacity is None else f"{name} {numbers.capacity(capacity)}"


def _rates(resources: Mapping[str, Quantity]) -> str:
    return ", ".join(f"{name} {units.parse_bandwidth(rate) / 1e9:.4g}" for name, rate in resources.items())


def accelerators_table(accelerators: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a row per accelerator, given as mappings: its tiers and bandwidths, its link's included."""
    rows = (
        (
            name,
            " | ".join(_tier(tier["name"], _bytes(tier["capacity"])) for tier in each["tiers"]),
            _rates(each["resources"]),
        )
        for name, each in accelerators.items()
    )
    return table(("accelerator", "tiers", "GB/s"), rows)


def parts_table(parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a row per part, given as mappings: its size, its latency and its own bandwidths."""
    rows = (
        (
            name,
            numbers.capacity(_bytes(tier["capacity"])),
            units.format_seconds(units.parse_seconds(tier["latency"])),
            _rates(each["resources"]),
            each["source"],
        )
        for name, each in parts.items()
        for tier in each["tiers"]
    )
    return table(("part", ">capacity", ">latency", "GB/s", "what it is"), rows)


def _bytes(capacity: str) -> float | None:
    return None if capacity == "unlimited" else float(units.parse_bytes(capacity))


def llms_table(llms: Sequence[Llm]) -> Table:
    """Return a row per language model."""
    rows = (
        (
            llm.name, numbers.count(llm.layers), numbers.spread(llm.kv_sizes),
            numbers.size(llm.kv_bytes(1)), numbers.size(llm.weight_bytes),
            numbers.size(float(llm.weight_reads.mean())),
        )
        for llm in llms
    )  # fmt: skip
    columns = ("llm", ">layers", ">KV B/token/layer", ">KV/token", ">weights", ">read per layer")
    return table(columns, rows)


def gpus_table(gpus: Sequence[Gpu]) -> Table:
    """Return a row per GPU: its two rates."""
    rows = ((gpu.name, f"{gpu.flops / 1e12:g}", f"{gpu.bandwidth / 1e9:.4g}", gpu.source) for gpu in gpus)
    return table(("gpu", ">TFLOP/s", ">GB/s", "what it is"), rows)


def gpu_details(gpu: Gpu) -> list[Table | str]:
    """Return one GPU's numbers with their sources."""
    values = {
        "flops": f"{gpu.flops / 1e12:g} TFLOP/s",
        "bandwidth": units.format_bandwidth(gpu.bandwidth),
    }
    rows = ((name, value, gpu.sources.get(name, "")) for name, value in values.items())
    return [f"{gpu.name}: {gpu.source}\n", table(("field", ">value", "source"), rows)]


def memory_details(memory: Memory) -> list[Table | str]:
    """Return one memory's numbers with their sources."""
    sources = memory.sources
    tiers = []
    for tier in memory.tiers:
        latency = units.format_seconds(tier.latency) if tier.latency else numbers.UNKNOWN
        tiers.append(
            (
                tier.name, numbers.capacity(tier.capacity), latency, ", ".join(tier.reads),
                ", ".join(tier.writes), sources.get(f"tiers.{tier.name}.capacity", ""),
            )
        )  # fmt: skip
    rates = (
        (name, units.format_bandwidth(rate), sources.get(f"resources.{name}", ""))
        for name, rate in memory.resources.items()
    )
    latencies = [
        (tier.name, units.format_seconds(tier.latency), sources.get(f"tiers.{tier.name}.latency", ""))
        for tier in memory.tiers
        if tier.latency
    ]
    parts: list[Table | str] = [
        f"{memory.name}: {memory.source}\n",
        table(
            ("tier", ">capacity", ">latency", "reads load", "writes load", "source of the capacity"), tiers
        ),
        "",
        table(("resource", ">bandwidth", "source"), rates),
    ]
    if latencies:
        parts += ["", table(("tier", ">latency", "source"), latencies)]
    if memory.energy:
        parts += ["", _energy_table("pJ per bit", memory.energy, memory.sources, "energy.")]
    if memory.mac_energy:
        named = {"mac_energy": memory.mac_energy}
        parts += ["", _energy_table("pJ per multiplication and addition", named, memory.sources, "")]
    return parts + [f"\n{remark}" for remark in _order(memory)]


def _order(memory: Memory) -> Iterator[str]:
    """Yield a remark on each tier that is read faster than the one before it."""
    as_named = " as the name says" if PLUS in memory.name else ": tier 0 holds the weights"
    rates = [min(memory.resources[name] for name in tier.reads) for tier in memory.tiers]
    for (earlier, slow), (tier, fast) in pairwise(zip(memory.tiers, rates, strict=True)):
        if fast > slow:
            yield (
                f"{tier.name} is read faster than {earlier.name} ({units.format_bandwidth(fast)} and "
                f"{units.format_bandwidth(slow)}), and stands behind it{as_named}."
            )


def _energy_table(title: str, energy: Mapping[str, Energy], sources: Mapping[str, str], prefix: str) -> Table:
    def shown(points: Mapping[str, float]) -> list[str]:
        return [f"{points[p]:g}" if p in points else numbers.UNKNOWN for p in ENERGY_POINTS]

    rows = [
        (name, level, *shown(points), sources.get(f"{prefix}{name}.{level}", ""))
        for name, levels in energy.items()
        for level, points in levels.items()
    ]
    return table((title, "level", ">low", ">mid", ">high", "source"), rows)


def llm_details(llm: Llm) -> list[Table | str]:
    """Return one language model's numbers with their derivation."""
    reads = sorted(set(llm.weight_reads.tolist()))
    read = " to ".join(units.format_bytes(value) for value in (reads[0], reads[-1])[: len(reads)])
    values = {
        "layers": numbers.count(llm.layers),
        "kv_bytes_per_token_layer": _kv_sizes(llm.kv_sizes),
        "weight_bytes": units.format_bytes(llm.weight_bytes),
        "weight_read_bytes_per_layer": read,
        **_experts(llm),
    }
    rows = ((name, value, llm.sources.get(name, "")) for name, value in values.items())
    parts: list[Table | str] = [f"{llm.name}: {llm.source}\n", table(("field", ">value", "how"), rows)]
    extra = [
        ("KV per token", units.format_bytes(llm.kv_bytes(1))),
        ("sliding windows", _windows(llm.windows)),
    ]
    return [*parts, "", pairs_table(extra)]


def architecture_details(model: Architecture) -> list[Table | str]:
    """Return the numbers of a model read from its config.json, whose layers may differ."""
    reads = sorted(set(model.weight_read_bytes))
    values = {
        "layers": numbers.count(model.layers),
        "kv_bytes_per_token_layer": _kv_sizes(model.kv_bytes_per_token),
        "weight_bytes": units.format_bytes(model.weight_bytes),
        "weight_read_bytes_per_layer": " to ".join(
            units.format_bytes(value) for value in (reads[0], reads[-1])[: len(reads)]
        ),
        **(_experts(model.to_llm()) if model.kv_layers else {}),
    }
    rows = ((name, value, model.sources.get(name, "")) for name, value in values.items())
    remarks = [(name, text) for name, text in model.sources.items() if name not in values]
    extra = [
        ("parameters", numbers.count(model.parameters)),
        ("KV per token", units.format_bytes(sum(model.kv_bytes_per_token))),
        ("sliding windows", _windows(model.windows)),
        *remarks,
    ]
    title = f"{model.name}: {model.source}\n"
    return [title, table(("field", ">value", "how"), rows), "", pairs_table(extra)]


def _experts(llm: Llm) -> dict[str, str]:
    """Return the values of the fields of experts; empty without any."""
    if not any(llm.expert_counts):
        return {}
    sizes = sorted(set(llm.expert_sizes) - {0})
    return {
        "experts": numbers.spread(llm.expert_counts),
        "expert_bytes": " to ".join(units.format_bytes(size) for size in (sizes[0], sizes[-1])[: len(sizes)]),
        "experts_read": f"{llm.experts_read:g}",
    }


def _kv_sizes(sizes: Sequence[int]) -> str:
    """Return the bytes of a token's KV, with the number of layers of each size, in lines."""
    kept = Counter(sizes)
    if len(kept) == 1:
        return f"{sizes[0]:,} B"
    return "\n".join(f"{size:,} B in {number} layer{'s' * (number > 1)}" for size, number in kept.items())


def _windows(windows: Sequence[int | None]) -> str:
    sizes = [window for window in windows if window is not None]
    if not sizes:
        return ""
    some = "all" if len(sizes) == len(windows) else f"{len(sizes)} of {len(windows)}"
    return f"{', '.join(f'{size:,}' for size in sorted(set(sizes)))} tokens in {some} layers"


def policy_table(policies: Mapping[str, tuple[str, bool, Mapping[str, Any]]]) -> Table:
    """Return a row per policy: what it does, whether it sees the future, its options."""
    rows = (
        (name, "the future" if oracle else "the past", _options(options), summary)
        for name, (summary, oracle, options) in policies.items()
    )
    return table(("policy", "sees", "options", "rule"), rows)


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
