"""What a policy is, and what it returns.

A policy is a small class: `start` may rank the prompt's tokens for the initial fill, and `step` chooses after
every slot what should be in the fast tier, either as a score for each token (the highest stay) or as an
explicit `MoveRequest`. The simulator applies what the instance's rules allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.policies.view import Ids, InstanceView, Slot

Scores: TypeAlias = NDArray[np.float64]
NO_TOKENS: Ids = np.zeros(0, np.int64)


class Birth(Enum):
    """Admission of a new token: any tier with room, room made in tier 0 if need be, or not tier 0."""

    IF_ROOM = "if room"
    MAKE_ROOM = "make room"
    SLOW = "slow"


@dataclass(frozen=True, eq=False)
class MoveRequest:
    """What a policy requests in a slot: promotions, evictions, and the admission of new tokens.

    Tokens of blocks that end in the slot are ignored.

    Attributes
    ----------
    promote
        Tokens to promote to tier 0, in order of preference.
    evict
        Tokens of tier 0 that may leave it, in this order, as many as are needed to make room.
    together
        Whether all of `evict` leave as soon as one has to.
    birth
        Where new tokens go: one admission for all of them, or one for each. A new block takes the most
        favourable admission of its new tokens: `MAKE_ROOM` before `IF_ROOM` before `SLOW`. Blocks are placed
        in this order too.
    """

    promote: Ids = field(default_factory=lambda: NO_TOKENS)
    evict: Ids = field(default_factory=lambda: NO_TOKENS)
    together: bool = False
    birth: Birth | Sequence[Birth] = Birth.IF_ROOM


class Policy(Protocol):
    """A placement rule; with an attribute ``oracle = True`` it may use future reads.

    Your own class needs only `step`: without `start` the default fill is used, without `name` the class's
    name. Where weights are placeable, a method ``place_weights(instance)`` may return the tier of each
    layer's weights, shape (layers,); without it they fill the fastest tiers before the KV. Under policies
    weights do not move.
    """

    name: str

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores | None:
        """Clear all state; return scores for the initial fill, shape (layers, prefill), or None.

        The highest scores fill tier 0; a token of score -inf stays out of it while there is room elsewhere.
        None stands for the default: the most recent tokens of every layer.
        """

    def step(self, slot: Slot) -> Scores | MoveRequest:
        """Return scores of past and new tokens, shape (tokens + births,), or a `MoveRequest`."""
