"""What a policy sees and says.

A policy is a small class: `start` may rank the prompt's tokens for the initial fill, `step` says
after every slot what should be in the fast tier, either as a score per token (higher stays) or as
an explicit `MoveRequest`. The simulator applies what the instance's rules allow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError

if TYPE_CHECKING:
    from kvbound.instance import Instance
    from kvbound.trace.future import Future

Ids: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = NDArray[np.float64]
NO_TOKENS: Ids = np.zeros(0, np.int64)


class Unseen(UsageError, AttributeError):
    """An online policy looked at what it cannot know."""


class Birth(Enum):
    """Where the new token should go: the fastest tier with room, made if need be, or not tier 0."""

    IF_ROOM = "if room"
    MAKE_ROOM = "make room"
    SLOW = "slow"


@dataclass(frozen=True, eq=False)
class MoveRequest:
    """Moves a policy wants in this slot, in its order of preference.

    Attributes
    ----------
    promote
        Tokens to bring to tier 0.
    evict
        Tokens of tier 0 that may leave, first the first, only as many as needed.
    together
        Once one has to leave, all of `evict` do.
    birth
        Where the new token goes.
    """

    promote: Ids = field(default_factory=lambda: NO_TOKENS)
    evict: Ids = field(default_factory=lambda: NO_TOKENS)
    together: bool = False
    birth: Birth = Birth.IF_ROOM


@dataclass(frozen=True, eq=False)
class Slot:
    """What an online policy may know when slot (step, layer) has been read.

    Attributes
    ----------
    instance
        The instance; online policies do not look at its trace.
    step, layer
        The slot.
    tokens
        Number of past tokens; the new one has this id.
    reads
        Ascending ids of the past tokens read in this slot.
    listed
        The same in the order in which they were recorded.
    mass
        Attention mass of `listed`, float16, or None.
    tier
        Tier of each past token, uint8, shape (tokens,); not to be written.
    room
        How many more tokens fit into tier 0.
    """

    instance: Instance
    step: int
    layer: int
    tokens: int
    reads: Ids
    listed: Ids
    mass: NDArray[np.float16] | None
    tier: NDArray[np.uint8]
    room: int
    _future: Future | None = None

    @property
    def future(self) -> Future:
        """The reads to come, for policies with ``oracle = True`` only.

        Raises
        ------
        Unseen
            The policy is an online one.
        """
        if self._future is None:
            raise Unseen("an online policy cannot see the future: set oracle = True")
        return self._future

    @cached_property
    def read_now(self) -> NDArray[np.bool_]:
        """Whether each token, the new one included, is read in this slot, shape (tokens + 1,)."""
        return mask(self.reads, self.tokens + 1)

    @cached_property
    def resident(self) -> NDArray[np.bool_]:
        """Whether each past token is in tier 0, shape (tokens,)."""
        return self.tier == 0

    @cached_property
    def misses(self) -> Ids:
        """Tokens read from a slower tier, in list order."""
        return self.listed[~self.resident[self.listed]]


class Policy(Protocol):
    """A placement rule; with an attribute ``oracle = True`` its `step` may look at ``slot.future``.

    Of a class of your own only `step` is needed: without `start` the default fill is taken, without
    `name` the class's name.
    """

    name: str

    def start(self, instance: Instance, rng: np.random.Generator) -> Scores | None:
        """Forget everything; return scores for the initial fill, shape (layers, prefill), or None.

        The highest scores fill tier 0, -inf keeps out of it where there is room elsewhere; None
        takes the most recent tokens of every layer.
        """

    def step(self, slot: Slot) -> Scores | MoveRequest:
        """Return scores of the past tokens and the new one, shape (tokens + 1,), or a `MoveRequest`."""


def mask(ids: Ids, size: int) -> NDArray[np.bool_]:
    """Return a boolean array of the given size, true at `ids`."""
    chosen = np.zeros(size, bool)
    chosen[ids] = True
    return chosen
