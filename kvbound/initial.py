"""The initial placement: which tier each block of the prompt starts in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Initial, Instance
from kvbound.trace.future import Future

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]


def recent_first(instance: Instance) -> Scores:
    """Scores of the default fill: the most recent prompt tokens, the same share for each layer."""
    return np.broadcast_to(
        np.arange(instance.prefill_tokens, dtype=np.float64), (instance.layers, instance.prefill_tokens)
    )


def prompt_first(instance: Instance) -> Scores:
    """Scores of the published static fill: token by token, all layers of one before the next."""
    order = np.arange(instance.layers * instance.prefill_tokens, dtype=np.float64)
    return -order.reshape(instance.prefill_tokens, instance.layers).T


def first_use(instance: Instance) -> Scores:
    """Scores of the fill that scans the decode trace: what is read first comes first.

    As in the study, what is never read leaves its room to tokens still to be born.
    """

    scores = np.empty((instance.layers, instance.prefill_tokens))
    for layer in range(instance.layers):
        after = Future(instance.trace, layer).next_use(-1)[: instance.prefill_tokens]
        scores[layer] = -(after.astype(np.float64) * instance.layers + layer)
        scores[layer, after == instance.decode_steps] = -np.inf
    return scores


Tiers = NDArray[np.uint8]


def fill(instance: Instance, scores: Scores) -> Tiers:
    """Tier of every block the prompt begins, shape (layers, prompt blocks).

    The tiers are filled, fastest first, in falling order of scores (layers, prefill), or token by
    token, layer by layer where the rules say prefill-first. What is worth nothing, -inf, leaves the
    fast tiers to what is born later as long as the slow ones have room.
    """
    starts = np.arange(0, instance.prefill_tokens, instance.granularity)
    if not len(starts):
        return np.zeros((instance.layers, 0), np.uint8)
    if instance.rules.initial is Initial.PREFILL_FIRST:
        scores = prompt_first(instance)
    worth = np.maximum.reduceat(scores, starts, axis=1).ravel()
    ranked = np.lexsort((-np.arange(worth.size), -worth))
    room = np.array([worth.size if r is None else min(r, worth.size) for r in instance.capacity_blocks])
    order = np.arange(instance.tiers, dtype=np.uint8)
    fast = np.repeat(order, room)[: np.count_nonzero(worth > -np.inf)]
    room -= np.bincount(fast, minlength=instance.tiers)
    slow = np.repeat(order[::-1], room[::-1])[: worth.size - fast.size]
    tiers = np.empty(worth.size, np.uint8)
    tiers[ranked] = np.concatenate([fast, slow])
    return tiers.reshape(instance.layers, len(starts))


def forced_tiers(instance: Instance, block: Ids, layer: Ids) -> Ids:
    """Tier into which prefill-first puts blocks of the prompt, of any shape."""
    unlimited = instance.layers * instance.blocks
    room = np.array([unlimited if limit is None else limit for limit in instance.capacity_blocks[:-1]])
    return np.searchsorted(np.cumsum(room), block * instance.layers + layer, side="right")
