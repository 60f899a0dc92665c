"""Placements of llama.cpp: whole layers in tier 0 (``-ngl``), or weights as far as they fit (``-nkvo``)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.policies.base import Birth, MoveRequest, Scores
from kvbound.policies.view import Ids, InstanceView, Slot

Bools = NDArray[np.bool_]

RESERVE: Final = 2**30
"""Bytes that llama.cpp leaves free in the fast tier when it fits layers into it."""


class LlamacppNgl:
    """Put the last layers as a whole, weights and KV, into tier 0, the others into the last; move nothing.

    Parameters
    ----------
    layers
        Layers in tier 0; by default as many as fit.
    """

    name = "llamacpp-ngl"
    oracle = False
    free_bytes = 0

    def __init__(self, layers: int | None = None) -> None:
        if layers is not None and (not isinstance(layers, int) or layers < 0):
            raise UsageError(f"{self.name} needs a whole number of layers >= 0, not {layers}")
        self.layers = layers
        self._chosen: Bools | None = None

    def place_weights(self, instance: InstanceView) -> Ids:
        """Return the tier of each layer's weights."""
        self._chosen = self._inside(instance)
        return np.where(self._chosen, 0, instance.tiers - 1)

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Start with the KV where the weights are."""
        # after place_weights, the instance given to start has resident weights only
        self.inside = self._inside(instance) if self._chosen is None else self._chosen
        self._chosen = None
        return np.repeat(np.where(self.inside, 0.0, -np.inf)[:, None], instance.prefill_tokens, axis=1)

    def step(self, slot: Slot) -> MoveRequest:
        """Put new tokens where their layer is."""
        return MoveRequest(birth=Birth.IF_ROOM if self.inside[slot.layer] else Birth.SLOW)

    def _inside(self, instance: InstanceView) -> Bools:
        """Return which layers are in tier 0; a layer needs room for the KV of all tokens."""
        llm, capacity = instance.llm, instance.memory.tiers[0].capacity
        count = self.layers
        if count is None:
            assert capacity is not None  # only the last tier may be unlimited
            block = instance.granularity * instance.item_bytes
            placed = instance.placeable_bytes
            kv = (block * instance.blocks).tolist()
            room, count = int(capacity) - int(llm.weight_bytes) + int(placed.sum()) - self.free_bytes, 0
            for needed in reversed([sum(pair) for pair in zip(placed.tolist(), kv, strict=True)]):
                room -= needed
                if room < 0:
                    break
                count += 1
        return np.arange(instance.layers) >= instance.layers - count


class LlamacppFit(LlamacppNgl):
    """Put as many of the last layers into tier 0 as fit with 1 GiB left free; move nothing."""

    name = "llamacpp-fit"
    free_bytes = RESERVE

    def __init__(self) -> None:
        super().__init__()


class LlamacppNkvo:
    """Put weights into tier 0 as far as they fit, and all KV into slower tiers; move nothing."""

    name = "llamacpp-nkvo"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Start with no KV in tier 0."""
        return np.full((instance.layers, instance.prefill_tokens), -np.inf)

    def step(self, slot: Slot) -> MoveRequest:
        """Put no new token into tier 0."""
        return MoveRequest(birth=Birth.SLOW)
