"""What decode time consists of, and what binds it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from kvbound.binding import Binding, schedule_parts
from kvbound.instance import Instance
from kvbound.onset import Onset
from kvbound.placement import PhysicalPlacement
from kvbound.report import numbers
from kvbound.result import Result, title
from kvbound.rules import Timing

_NAMES = {"weights": "weights", "kv_reads": "KV reads", "kv_writes": "KV writes", "latency": "latency"}
_PLACED = {"weights": "resident weights", "kv_reads": "reads of placed weights and KV"}
"""Names in place of these where weights may be placed like KV."""
_NEGLIGIBLE = 0.005


def sentences(instance: Instance, found: Binding) -> str:
    """Return sentences on the parts of the ideal time, its binding resources, and what placement can gain."""
    text = "If placement were no constraint, decoding would take"
    if not found.time_s:
        return f"{text} no time: nothing is read, and a birth costs nothing."
    text += f" {numbers.seconds(found.time_s)}: {_shares(instance, found.parts)}; "
    text += f"{_binds(instance, found.resources)}."
    last, ratio = instance.memory.tiers[-1].name, numbers.ratio(found.slowest_s / found.time_s)
    if (onset := found.onset) is None:
        return f"{text} With all {_what(instance)} in {last} it would take {ratio} as long."
    also = "" if onset.tier == last else f", and {ratio} with all in {last}"
    simple = f"With all KV in {onset.tier} it takes {numbers.ratio(onset.ratio)} as long{also}."
    return f"{text} {simple} No placement gains more than that here; one may gain {_from(onset)}."


def made_of(instance: Instance, result: Result) -> list[str]:
    """Return a sentence on what the time of a physical schedule is made of, and nothing without one."""
    if not isinstance(result.placement, PhysicalPlacement) or not result.time_s:
        return []
    parts = schedule_parts(instance, result.placement)
    named = {"weights": parts.weights, "births": parts.births, "moves": parts.moves, "latency": parts.latency}
    named |= {f"{_what(instance)} from {tier}": seconds for tier, seconds in parts.reads.items()}
    return [f"The time of {title(result)}'s schedule: {_listed(named, sum(named.values()))}."]


def summary(instance: Instance, found: Binding) -> str:
    """Return the same in short form, for a table."""
    if not found.time_s:
        return "none: nothing is read, and a birth costs nothing"
    parts = f"{numbers.seconds(found.time_s)}: {_shares(instance, found.parts)}"
    parts += f"; {_binds(instance, found.resources)}"
    last = instance.memory.tiers[-1].name
    slowest = numbers.ratio(found.slowest_s / found.time_s)
    return f"{parts}; {slowest} with all {_what(instance)} in {last}"


def placement_gains(onset: Onset | None) -> str:
    """Return where placement gains nothing, and where it may, for a table."""
    if onset is None:
        return ""
    return f"nothing over all KV in {onset.tier} ({numbers.ratio(onset.ratio)}); it may gain {_from(onset)}"


def _from(onset: Onset) -> str:
    """Return from which batch and number of tokens on one tier will not do."""
    least, several = [], onset.batch_now > 1
    if onset.batch is not None:
        batch = f"a batch of {onset.batch:,}"
        least.append(_times(onset.batch, onset.batch_now, "sequences", batch) if several else batch)
    if onset.tokens is not None:
        tokens = f"{onset.tokens:,} tokens"
        longest = f"{tokens} in the longest sequence"
        least.append(_times(onset.tokens, onset.tokens_now, "context", longest) if several else tokens)
    return f"from {' or '.join(least)} on" if least else "at no larger size"


def _times(size: int, now: int, what: str, meaning: str) -> str:
    """Return how many times larger a run is: ``3 times the sequences (a batch of 24)``."""
    return f"{numbers.at_most(size / now)} times the {what} ({meaning})"


def largest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return names and shares, the largest first, without negligible ones."""
    known = sorted(((share, name) for name, share in shares.items()), reverse=True)
    return [(name, share) for share, name in known if share >= _NEGLIGIBLE]


def _what(instance: Instance) -> str:
    """Return what is placed."""
    return "weights and KV" if instance.chunks.ids else "KV"


def _shares(instance: Instance, parts: Mapping[str, float]) -> str:
    names = _NAMES | (_PLACED if instance.chunks.ids else {})
    return _listed({names[name]: share for name, share in parts.items()})


def _listed(parts: Mapping[str, float], whole: float = 1.0) -> str:
    shares = {name: part / whole for name, part in parts.items()}
    return ", ".join(f"{name} {numbers.share(share)}" for name, share in largest(shares))


def _binds(instance: Instance, resources: Mapping[str, float]) -> str:
    binding = largest(resources)
    together = " work one after the other" if instance.rules.timing is Timing.SERIAL else " bind"
    if len(binding) == 1:
        return f"{binding[0][0]} binds"
    *most, last = [f"{name} ({numbers.share(share)})" for name, share in binding]
    return f"{', '.join(most)} and {last}{together}"
