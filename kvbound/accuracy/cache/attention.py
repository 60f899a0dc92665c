"""Attention of all queries of a sequence at once, over K and V in zones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvbound.accuracy.cache.sides import Zone
from kvbound.accuracy.formats import Floats

QUERIES = 256
"""Queries computed at once."""


def attention(queries: Floats, keys: Sequence[Zone], values: Sequence[Zone], kv_heads: int) -> Floats:
    """Return the outputs of attention, in float32.

    Query t attends to tokens 0 to t, each read from the zone that holds it at that time, so that the result
    is that of decoding token by token, up to the order of sums.

    Parameters
    ----------
    queries
        Queries after rotation, shape (tokens, heads, size).
    keys, values
        Zones of K and of V, with rows of ``kv_heads * size`` values.
    kv_heads
        KV heads; as many query heads as there are to each of them are neighbours.

    Returns
    -------
    Shape (tokens, heads, size).
    """
    outputs = np.empty_like(queries)
    for start in range(0, len(queries), QUERIES):
        stop = min(start + QUERIES, len(queries))
        part = _grouped(queries[start:stop], kv_heads)
        weights = _softmax(_scores(part, keys, start, stop))
        mixed = _mixed(weights, values, start, stop)
        outputs[start:stop] = mixed.transpose(2, 0, 1, 3).reshape(stop - start, *queries.shape[1:])
    return outputs


def _grouped(queries: Floats, kv_heads: int) -> Floats:
    """Return queries divided by the root of their size, shape (KV heads, heads to each, queries, size)."""
    count, heads, size = queries.shape
    split = queries.reshape(count, kv_heads, heads // kv_heads, size).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(split) * np.float32(size**-0.5)


def _scores(part: Floats, keys: Sequence[Zone], start: int, stop: int) -> Floats:
    """Return the scores of queries `start` to `stop` for tokens before `stop`, -inf for later ones."""
    kv_heads, shared, count, size = part.shape
    flat = part.reshape(kv_heads, shared * count, size)
    if len(keys) == 1:
        each = keys[0].values[:stop].reshape(stop, kv_heads, size).transpose(1, 2, 0)
        alone: Floats = (flat @ each).reshape(kv_heads, shared, count, stop)
        alone[..., start:] += _later(count)
        return alone
    scores = np.full((kv_heads, shared, count, stop), -np.inf, np.float32)
    for zone in keys:
        for low, high, held in _held(zone, start, stop):
            rows = zone.values[low:high].reshape(high - low, kv_heads, size).transpose(1, 2, 0)
            found = (flat @ rows).reshape(kv_heads, shared, count, -1)
            np.copyto(scores[..., low:high], found, where=held)
    return scores


def _mixed(weights: Floats, values: Sequence[Zone], start: int, stop: int) -> Floats:
    """Return the sums of values by weights, shape (KV heads, heads to each, queries, size)."""
    kv_heads, shared, count, _ = weights.shape
    size = values[0].values.shape[1] // kv_heads
    total = np.zeros((kv_heads, shared * count, size), np.float32)
    for zone in values:
        for low, high, held in _held(zone, start, stop):
            rows = zone.values[low:high].reshape(high - low, kv_heads, size).transpose(1, 0, 2)
            chosen = weights[..., low:high] if len(values) == 1 else weights[..., low:high] * held
            total += chosen.reshape(kv_heads, shared * count, -1) @ rows
    return total.reshape(kv_heads, shared, count, size)


def _held(zone: Zone, start: int, stop: int) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Return the range of tokens that queries read in a zone, if any, and which of them each reads."""
    lows, highs = zone.low[start:stop, None], zone.high[start:stop, None]
    some = lows < highs
    if not some.any():
        return []
    low, high = int(lows[some].min()), int(highs[some].max())
    tokens = np.arange(low, high)
    return [(low, high, (tokens >= lows) & (tokens < highs))]


def _later(count: int) -> Floats:
    """Return -inf for tokens after a query and 0 for others, shape (queries, tokens)."""
    return np.triu(np.full((count, count), -np.inf, np.float32), 1)


def _softmax(scores: Floats) -> Floats:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores
