"""The initial placement: the tier each block of the prompt starts in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.blocks import Blocks
from kvbound.instance import Initial, Instance

Ids = NDArray[np.int64]
Tiers = NDArray[np.uint8]


def fill(instance: Instance, scores: NDArray[np.float64]) -> Tiers:
    """Return the tier of every block that begins in the prompt, shape (layers, prompt blocks).

    The tiers are filled fastest first with the blocks in descending order of their best token's score, shape
    (layers, prefill). Blocks of score -inf are put into the slowest tier with room. Where the rules say
    prefill-first, the scores do not matter; see `forced_tiers`.
    """
    if instance.rules.initial is Initial.PREFILL_FIRST:
        return forced_fill(instance)
    worth = best_scores(instance.grouping, scores).ravel()
    ranked = np.lexsort((-np.arange(worth.size), -worth))
    room = np.array([worth.size if r is None else min(r, worth.size) for r in instance.capacity_blocks])
    order = np.arange(instance.tiers, dtype=np.uint8)
    fast = np.repeat(order, room)[: np.count_nonzero(worth > -np.inf)]
    room -= np.bincount(fast, minlength=instance.tiers)
    slow = np.repeat(order[::-1], room[::-1])[: worth.size - fast.size]
    tiers = np.empty(worth.size, np.uint8)
    tiers[ranked] = np.concatenate([fast, slow])
    return tiers.reshape(instance.layers, instance.grouping.prompt)


def best_scores(blocks: Blocks, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score of each block, that of its best token, (..., blocks) from (..., tokens).

    They are those of the first tokens, and of the blocks that these begin.
    """
    if blocks.size == 1:
        return scores
    tokens = scores.shape[-1]
    begin = blocks.head[: np.searchsorted(blocks.head, tokens)]
    if not blocks.contiguous:
        order = np.argsort(blocks.of[:tokens], kind="stable")
        begin = np.searchsorted(blocks.of[order], np.arange(len(begin)))
        scores = scores[..., order]
    return np.maximum.reduceat(scores, begin, axis=-1) if tokens else scores


def forced_fill(instance: Instance) -> Tiers:
    """Return the tier of every prompt block under prefill-first, shape (layers, prompt blocks)."""
    blocks = np.arange(instance.grouping.prompt)
    return forced_tiers(instance, blocks, np.arange(instance.layers)[:, None]).astype(np.uint8)


def forced_tiers(instance: Instance, block: Ids, layer: Ids) -> Ids:
    """Return the tiers into which prefill-first puts prompt blocks of some layers.

    It fills the tiers fastest first, block by block, with all layers of one before the next.

    Parameters
    ----------
    block, layer
        Indices whose shapes broadcast.
    """
    unlimited = instance.layers * instance.blocks
    room = np.array([unlimited if limit is None else limit for limit in instance.capacity_blocks[:-1]])
    return np.searchsorted(np.cumsum(room), block * instance.layers + layer, side="right")
