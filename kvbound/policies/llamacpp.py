"""Placements of llama.cpp: whole layers in tier 0 (``-ngl``), or all weights there but no KV (``-nkvo``)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.policies.base import Birth, MoveRequest, Scores
from kvbound.policies.view import Ids, InstanceView, Slot

Bools = NDArray[np.bool_]

_FREE = 2**30
"""Bytes that ``--fit`` leaves free by default."""


class LlamacppNgl:
    """Put the last layers as a whole, weights and KV, into tier 0, the others into tier 1; move nothing.

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
        return np.where(self._chosen, 0, 1)

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Start with the KV where the weights are."""
        # of placed weights, the instance that is left to fill knows nothing any more
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
            placed = llm.weight_reads if llm.weights == "placeable" else np.zeros(instance.layers)
            tokens = instance.granularity * instance.blocks
            room, count = Fraction(capacity) - Fraction(llm.weight_bytes) - self.free_bytes, 0
            room += sum(map(Fraction, placed.tolist()))  # what is read is not resident
            for weights, kv in zip(placed[::-1].tolist(), llm.kv_sizes[::-1], strict=True):
                room -= Fraction(weights) + tokens * kv
                if room < 0:
                    break
                count += 1
        return np.arange(instance.layers) >= instance.layers - count


class LlamacppFit(LlamacppNgl):
    """Put as many of the last layers into tier 0 as fit with 1 GiB left free; move nothing."""

    name = "llamacpp-fit"
    free_bytes = _FREE

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
