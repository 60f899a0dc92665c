"""The items of layers in which every slot reads all of them: numbers of items that are alike.

Items of a layer with the same last step differ in their births alone. They form a *class*: in every slot the
cheapest way on is the same for all of them, given the tier in which they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.initial import forced_fill
from kvbound.instance import Instance
from kvbound.residency import exceeds_event_limit
from kvbound.rules import Initial

Ints = NDArray[np.int64]

_MOST_CHOICES = 1 << 28
"""Bytes that the choices of a layer's classes may take: beyond, bits serve as well."""


def applies(instance: Instance) -> bool:
    """Whether items need not be distinguished: reads are dense, blocks are of one token, and ends are few."""
    if not (instance.physical and instance.workload.dense and instance.granularity == 1):
        return False
    return len(_ends(instance, slice(None))) * instance.decode_steps * instance.tiers <= _MOST_CHOICES


def layers_differ_in_weights_at_most(instance: Instance) -> bool:
    """Whether that is so of all layers, and their items need not be distinguished."""
    alike = len(set(instance.token_timelines)) == 1 and instance.uniform and not instance.chunks.ids
    return alike and applies(instance)


def exceeds_bits(instance: Instance) -> bool:
    """Whether an instance is too large to list its reads, but need not do so, as they are dense."""
    return applies(instance) and exceeds_event_limit(instance)


@dataclass(frozen=True, eq=False)
class DenseItems:
    """The items of some layers by class.

    Attributes
    ----------
    layers
        The layers.
    ends
        Last step of each class, the number of steps for items that stay, ascending, (classes,).
    prompt
        Items of the prompt by layer and class, (layers, classes); a chunk of weights counts as many.
    forced
        The same by the tier in which they start, (K, layers, classes), or None where that is free.
    first
        Where the births of each step begin in the following three, (steps + 1,).
    layer, kind, count
        Layer, class and number of items of each kind of births, (births,).
    """

    layers: slice
    ends: Ints
    prompt: Ints
    forced: Ints | None
    first: Ints
    layer: Ints
    kind: Ints
    count: Ints

    @classmethod
    def of(cls, instance: Instance, layers: slice = slice(None)) -> DenseItems:
        """Count the items of some layers."""
        chosen = range(instance.layers)[layers]
        timelines = [instance.timelines[layer] for layer in chosen]
        distinct, ends = set(timelines), _ends(instance, layers)
        prompt = np.zeros((len(chosen), len(ends)), np.int64)
        is_forced = instance.rules.initial is Initial.PREFILL_FIRST
        fill = forced_fill(instance)[layers] if is_forced else None
        forced = np.zeros((instance.tiers, *prompt.shape), np.int64) if is_forced else None
        births = []
        known = {
            timeline: (np.searchsorted(ends, timeline.ends), timeline.ends >= 0) for timeline in distinct
        }
        for n, (number, timeline) in enumerate(zip(chosen, timelines, strict=True)):
            kind, exists = known[timeline]
            token = np.flatnonzero(exists[: instance.prefill_tokens])
            counts = instance.id_counts[number, token]
            np.add.at(prompt[n], kind[token], counts)
            if forced is not None and fill is not None:
                np.add.at(forced[:, n], (fill[n, token], kind[token]), counts)
            pairs = timeline.born[instance.prefill_tokens :] * len(ends) + kind[instance.prefill_tokens :]
            found, many = np.unique(pairs, return_counts=True)
            births.append(np.stack([found // len(ends), np.full(len(found), n), found % len(ends), many]))
        step, layer, kind, count = np.concatenate(births, axis=1)
        order = np.argsort(step, kind="stable")
        first = np.searchsorted(step[order], np.arange(instance.decode_steps + 1))
        return cls(layers, ends, prompt, forced, first, layer[order], kind[order], count[order])


def _ends(instance: Instance, layers: slice) -> Ints:
    """Return the different last steps of items in some layers, ascending."""
    ends = [np.unique(timeline.ends) for timeline in set(instance.timelines[layers])]
    found = np.unique(np.concatenate(ends))
    return found[found >= 0]
