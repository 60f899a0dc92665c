"""Scores for the initial fill, which policies share: shape (layers, prefill), the highest fill tier 0."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.view import Ids, InstanceView
from kvbound.trace.timeline import positions


def recent_first(instance: InstanceView) -> Scores:
    """Return the default: the most recent prompt tokens of every sequence, the same share for each layer."""
    return np.broadcast_to(recency(instance.sequence), (instance.layers, instance.prefill_tokens))


def recency(sequence: Ids) -> Scores:
    """Return how recent each token is: the fewer later tokens its sequence has, the higher the score.

    Parameters
    ----------
    sequence
        Sequence to which each token belongs, shape (tokens,).
    """
    position = positions(sequence)
    latest = np.empty(int(sequence.max(initial=0)) + 1, np.int64)
    latest[sequence] = position  # the last one of each sequence stands
    return (len(sequence) - 1 + position - latest[sequence]).astype(np.float64)


def prompt_first(instance: InstanceView) -> Scores:
    """Return the published static fill: token by token, all layers of one before the next."""
    order = np.arange(instance.layers * instance.prefill_tokens, dtype=np.float64)
    return -order.reshape(instance.prefill_tokens, instance.layers).T


def first_use(instance: InstanceView) -> Scores:
    """Return the fill that scans the decode trace, for oracle policies: what is read first comes first.

    As in the study, tokens that are never read stay out, which leaves room for tokens not yet born.
    """
    scores = np.empty((instance.layers, instance.prefill_tokens))
    for layer in range(instance.layers):
        after = instance.future(layer).next_use(-1)[: instance.prefill_tokens]
        scores[layer] = -(after.astype(np.float64) * instance.layers + layer)
        scores[layer, after == instance.decode_steps] = -np.inf
    return scores
