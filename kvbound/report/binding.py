"""The binding resources of an instance, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from kvbound.binding import Binding
from kvbound.instance import Instance, Timing
from kvbound.report import numbers

_NAMES = {"weights": "weights", "kv_reads": "KV reads", "kv_writes": "KV writes", "latency": "latency"}
_LITTLE = 1.05
"""Ratio of the worst placement's time to the ideal up to which placement hardly matters."""
_NEGLIGIBLE = 0.005


def sentences(instance: Instance, found: Binding) -> str:
    """Return sentences on the parts of the ideal time, its binding resources, and what placement can gain."""
    text = "If placement were no constraint, decoding would take"
    if not found.time_s:
        return f"{text} no time: nothing is read, and writes cost nothing."
    text = f"{text} {numbers.seconds(found.time_s)}: {_shares(found.parts)}; "
    times, little = _worst(found)
    last = f"all KV in {instance.memory.tiers[-1].name} it would take {numbers.ratio(times)} as long"
    end = f"Even with {last}: there is next to nothing to gain from placement." if little else f"With {last}."
    return f"{text}{_binds(instance, found.resources)}. {end}"


def summary(instance: Instance, found: Binding) -> str:
    """Return the same in short form, for a table."""
    if not found.time_s:
        return "none: nothing is read, and writes cost nothing"
    times, little = _worst(found)
    last = f"{numbers.ratio(times)} with all KV in {instance.memory.tiers[-1].name}"
    end = ": next to nothing to gain from placement" if little else ""
    parts = f"{numbers.seconds(found.time_s)}: {_shares(found.parts)}; {_binds(instance, found.resources)}"
    return f"{parts}; {last}{end}"


def _worst(found: Binding) -> tuple[float, bool]:
    """Return the ratio of the worst placement's time to the ideal, and whether it is at most `_LITTLE`."""
    times = found.slowest_s / found.time_s
    return times, times <= _LITTLE


def _shares(parts: Mapping[str, float]) -> str:
    known = sorted(((share, _NAMES[name]) for name, share in parts.items()), reverse=True)
    return ", ".join(f"{name} {numbers.share(share)}" for share, name in known if share >= _NEGLIGIBLE)


def _binds(instance: Instance, resources: Mapping[str, float]) -> str:
    known = sorted(((share, name) for name, share in resources.items()), reverse=True)
    binding = [(name, share) for share, name in known if share >= _NEGLIGIBLE]
    together = " work one after the other" if instance.rules.timing is Timing.SERIAL else " bind"
    if len(binding) == 1:
        return f"{binding[0][0]} binds"
    *most, last = [f"{name} ({numbers.share(share)})" for name, share in binding]
    return f"{', '.join(most)} and {last}{together}"
