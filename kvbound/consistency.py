"""Whether the parts of an instance go together, and what follows from several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvbound.errors import InputError
from kvbound.fields import show
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.objective import Objective
from kvbound.rules import Accounting, Overlap, Rules, Windows
from kvbound.trace import Trace
from kvbound.trace.timeline import Timeline

Sizes = int | tuple[int, ...]
"""Bytes of one token's KV in a layer: one number for all layers, or one per layer."""


def ending_windows(rules: Rules, llm: Llm) -> tuple[int | None, ...]:
    """Return the window of each layer in which tokens end when they leave it, shape (layers,)."""
    return llm.windows if rules.windows is Windows.ENDS and llm.windows else (None,) * llm.layers


def checked_formats(name: str, memory: Memory, llm: Llm, formats: Mapping[str, Sizes]) -> dict[str, Sizes]:
    """Return the sizes in tiers where they differ from the llm's, in the order of the tiers.

    Raises
    ------
    InputError
        A tier is not in the memory, or its sizes are not in the same ratio to the llm's in all layers.
    """
    usual, names = llm.kv_sizes, [tier.name for tier in memory.tiers]
    if not set(formats) <= set(names):
        raise InputError(name, "formats", f"tiers among {', '.join(names)}")
    others: dict[str, Sizes] = {}
    largest = max(range(llm.layers), key=lambda layer: usual[layer])
    for tier in (tier for tier in names if tier in formats):
        given = formats[tier]
        sizes = tuple(map(int, given)) if isinstance(given, tuple | list) else (int(given),) * llm.layers
        fits = len(sizes) == llm.layers and sizes[largest] >= 1
        if not fits or any(
            size * usual[largest] != own * sizes[largest] for size, own in zip(sizes, usual, strict=True)
        ):
            expected = "bytes of a token's KV, at least 1, in the same ratio to the llm's in all layers"
            raise InputError(name, f"formats.{tier}", f"{expected}, not {show(given)}")
        if sizes != usual:
            others[tier] = sizes if len(set(sizes)) > 1 else sizes[0]
    return others


def check_rules(name: str, rules: Rules, llm: Llm, timeline: Timeline, formats: Mapping[str, Sizes]) -> None:
    """Refuse what the rules cannot be applied to.

    Raises
    ------
    InputError
        Windows or formats do not go with the rest, or accounting fang2025 does not have what is given.
    """
    placeable = llm.weights != "resident"
    if rules.windows is Windows.ENDS and not any(llm.windows):
        raise InputError(name, "llm.windows", "the window of at least one layer, as rules.windows is 'ends'")
    if placeable and formats:
        expected = "none with placeable weights, which have the same bytes in every tier"
        raise InputError(name, "formats", expected)
    if rules.accounting is Accounting.PHYSICAL:
        return
    one_size = "one size of items"
    for field, expected, wrong in (
        ("formats", "no formats of tiers", bool(formats)),
        ("llm.kv_bytes_per_token_layer", one_size, len(set(llm.kv_sizes)) > 1),
        ("rules.windows", "'ignore'", rules.windows is Windows.ENDS),
        ("rules.overlap", "'slot'", rules.overlap is Overlap.STEP),
        ("llm.weights", "'resident'", placeable),
        ("trace", "one birth in every step and no ends", not timeline.plain),
    ):
        if wrong:
            raise InputError(name, field, f"{expected} under accounting {rules.accounting}")


def check_objective(name: str, objective: Objective, rules: Rules) -> None:
    """Refuse another objective than time under accounting that has no energies.

    Raises
    ------
    InputError
        The accounting is not physical.
    """
    if not objective.time_alone and rules.accounting is not Accounting.PHYSICAL:
        raise InputError(name, "objective", f"time alone under accounting {rules.accounting}")


def check_experts(name: str, llm: Llm, counts: Sequence[int]) -> None:
    """Refuse a trace that names experts where these cannot be placed.

    Parameters
    ----------
    counts
        Least number of experts of each layer that has all that the trace names, (layers,), empty if it names
        none.

    Raises
    ------
    InputError
        Weights are resident, the llm does not describe its experts, or a layer has fewer.
    """
    if not counts:
        return
    if llm.weights == "resident":
        raise InputError(name, "llm.weights", "'placeable', as the trace names experts")
    if not any(llm.expert_counts):
        expected = "the number of routed experts in each layer, as the trace names experts"
        raise InputError(name, "llm.experts", expected)
    for layer, (needed, count) in enumerate(zip(counts, llm.expert_counts, strict=True)):
        if needed > count:
            expected = f"at least {needed:,} experts in layer {layer}, as the trace names them, not {count:,}"
            raise InputError(name, "llm.experts", expected)


def check_reads(name: str, llm: Llm, trace: Trace, timelines: Sequence[Timeline]) -> None:
    """Refuse reads of tokens outside a layer's window, and in layers that keep no KV.

    Parameters
    ----------
    timelines
        Births and ends in each layer, shape (layers,).

    Raises
    ------
    InputError
        There is such a read.
    """
    for layer, (timeline, size) in enumerate(zip(timelines, llm.kv_sizes, strict=True)):
        if timeline is not trace.timeline and (wrong := trace.wrong_read(layer, timeline)):
            step, expected = wrong
            window = f"within the window of {llm.windows[layer]:,} tokens, {expected}"
            raise InputError(name, f"trace, step {step}, layer {layer}", window)
        if not size and (counts := trace.past_counts()[:, layer]).any():
            where = f"trace, step {int(counts.argmax())}, layer {layer}"
            raise InputError(name, where, "no read of past tokens, as the layer keeps no KV")
