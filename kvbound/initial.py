"""The initial placement: the tier each block of the prompt starts in."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kvbound.blocks import Blocks
from kvbound.errors import InfeasibleError
from kvbound.first_fit import first_fit
from kvbound.instance import Instance
from kvbound.rules import Initial

Ids = NDArray[np.int64]
Tiers = NDArray[np.uint8]

_FORCED: WeakKeyDictionary[Instance, Tiers] = WeakKeyDictionary()
"""What `forced_fill` has found."""


def fill(instance: Instance, scores: NDArray[np.float64]) -> Tiers:
    """Return the tier of every block that begins in the prompt, shape (layers, prompt blocks).

    The tiers are filled fastest first with the blocks in descending order of their best token's score, shape
    (layers, prefill). Blocks of score -inf are put into the slowest tier with room. Where the rules say
    prefill-first, the scores do not matter; see `forced_fill`.
    """
    if instance.rules.initial is Initial.PREFILL_FIRST:
        return forced_fill(instance)
    worth = best_scores(instance.grouping, scores)
    exists = np.broadcast_to(instance.grouping.initial, worth.shape)
    units = instance.block_units[:, : exists.shape[1]][exists]
    ranked = np.lexsort((-np.flatnonzero(exists), -worth[exists]))
    fast = ranked[: np.count_nonzero(worth[exists] > -np.inf)]
    slow, room = ranked[len(fast) :], instance.room_units.copy()
    placed = np.empty(len(ranked), np.int64)
    placed[fast] = first_fit(units[fast], room)
    fits = fast[placed[fast] < instance.tiers]
    np.subtract.at(room, placed[fits], units[fits])
    placed[slow] = instance.tiers - 1 - first_fit(units[slow], room[::-1])
    return _checked(instance, exists, placed)


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


def require_room(instance: Instance) -> None:
    """Check that the memory holds the instance, and the prompt where the rules put it.

    Raises
    ------
    InfeasibleError
        It does not.
    """
    _ = instance.capacity_units
    if instance.rules.initial is Initial.PREFILL_FIRST:
        forced_fill(instance)


def forced_fill(instance: Instance) -> Tiers:
    """Return the tier of every prompt block under prefill-first, shape (layers, prompt blocks).

    Block by block, with all layers of one before the next, each is put into the fastest tier with room for
    it. Blocks that are outside a layer's window from the start do not exist there, and get the last tier.

    Raises
    ------
    InfeasibleError
        No tier has room for a block.
    """
    if instance not in _FORCED:
        _FORCED[instance] = _in_order(instance, instance.grouping.initial)
    return _FORCED[instance]


def weight_fill(instance: Instance) -> Tiers:
    """Return the tier of every chunk of weights, placed before KV in the same way, shape (layers, ids).

    Raises
    ------
    InfeasibleError
        No tier has room for a chunk.
    """
    return _in_order(instance, instance.chunks.exist)


def forced_tiers(instance: Instance, block: Ids, layer: Ids) -> Tiers:
    """Return the tiers of some blocks under prefill-first, that of the last prompt block for later ones.

    Parameters
    ----------
    block, layer
        Indices whose shapes broadcast.
    """
    tiers = forced_fill(instance)
    if not tiers.size:
        return np.zeros(np.broadcast_shapes(block.shape, layer.shape), np.uint8)
    return tiers[layer, np.minimum(block, tiers.shape[1] - 1)]


def _in_order(instance: Instance, exists: NDArray[np.bool_]) -> Tiers:
    """Return the tiers of the first blocks of each layer, filled in order, in the shape of `exists`."""
    units = instance.block_units[:, : exists.shape[1]].T[exists.T]
    return _checked(instance, exists.T, first_fit(units, instance.room_units)).T


def _checked(instance: Instance, exists: NDArray[np.bool_], placed: Ids) -> Tiers:
    """Return the tiers of blocks in the shape of `exists`, given those of the ones that exist."""
    if placed.size and not 0 <= placed.min() <= placed.max() < instance.tiers:
        raise InfeasibleError(f"{instance.name}: after the fill no tier has room for a block")
    tiers = np.full(exists.shape, instance.tiers - 1, np.uint8)
    tiers[exists] = placed
    return tiers
