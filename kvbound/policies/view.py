"""What a policy sees: an instance without its reads, and one slot at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.rules import Rules
from kvbound.trace import Trace
from kvbound.trace.future import Future
from kvbound.trace.timeline import Timeline

Ids: TypeAlias = NDArray[np.int64]


class Unseen(UsageError, AttributeError):
    """A policy accessed something that it must not see."""


@dataclass(frozen=True, eq=False)
class InstanceView:
    """What a policy may see of an instance: sizes, rules, memory and capacities, but not the reads.

    Attributes have the names and meanings they have in `kvbound.Instance`. In addition `sequence` holds the
    sequence to which each prompt token belongs, shape (prefill,), read-only.
    """

    name: str
    memory: Memory
    llm: Llm
    rules: Rules
    layers: int
    prefill_tokens: int
    decode_steps: int
    tokens: int
    slots: int
    item_bytes: Ids
    placeable_bytes: Ids
    units: Ids
    granularity: int
    blocks: int
    tiers: int
    inclusive: bool
    physical: bool
    capacity_units: tuple[int | None, ...]
    sequence: Ids
    _trace: Trace | None = field(default=None, repr=False)
    _timelines: tuple[Timeline, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, instance: Instance, *, oracle: bool) -> InstanceView:
        """Return the view of an oracle policy, or of an online one, which cannot reach the trace."""
        own, trace = ("sequence", "_trace", "_timelines"), instance.workload
        known = {each.name: getattr(instance, each.name) for each in fields(cls) if each.name not in own}
        # chunks of weights are no tokens
        known |= {"prefill_tokens": trace.prefill_tokens, "tokens": trace.tokens}
        known["blocks"] -= instance.chunks.ids
        sequence = trace.timeline.sequence[: trace.prefill_tokens].copy()
        sequence.flags.writeable = False
        if not oracle:
            return cls(**known, sequence=sequence)
        return cls(**known, sequence=sequence, _trace=instance.trace, _timelines=instance.timelines)

    @property
    def trace(self) -> NoReturn:
        """No policy sees the trace itself.

        Raises
        ------
        Unseen
            Always; its message names what an oracle policy has instead.
        """
        raise Unseen("a policy cannot see the trace: with oracle = True it has slot.future")

    def future(self, layer: int) -> Future:
        """Return all reads of a layer, births and ends, for policies with ``oracle = True`` only.

        Raises
        ------
        Unseen
            The policy is an online one.
        """
        if self._trace is None:
            raise Unseen("an online policy cannot see the future: set oracle = True")
        return Future(self._trace, layer, self._timelines[layer])


@dataclass(frozen=True, eq=False)
class Slot:
    """What an online policy may see after the reads of slot (step, layer).

    Attributes
    ----------
    instance
        Sizes, rules and memory.
    step, layer
        The slot.
    tokens
        Number of past tokens, ended ones included; the first new one has this id.
    births
        Number of tokens born in this slot: 1 unless the trace says otherwise.
    sequence
        Sequence to which each token belongs, new ones included, shape (tokens + births,), read-only.
    staying
        Whether each past token exists in this layer after this slot, shape (tokens,), read-only.
    reads
        Ascending ids of the past tokens read in this slot.
    listed
        The same in the order in which they were recorded.
    mass
        Attention mass of `listed`, float16, or None.
    tier
        Tier of each past token before the slot's moves, uint8, shape (tokens,), read-only; the number of
        tiers for tokens that ended in this layer before this slot.
    room
        How many more of the layer's tokens fit into tier 0 once the blocks that end in this slot have left.
    """

    instance: InstanceView
    step: int
    layer: int
    tokens: int
    births: int
    sequence: Ids
    staying: NDArray[np.bool_]
    reads: Ids
    listed: Ids
    mass: NDArray[np.float16] | None
    tier: NDArray[np.uint8]
    room: int
    _future: Future | None = None

    @property
    def future(self) -> Future:
        """The layer's future reads, births and ends, for policies with ``oracle = True`` only.

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
        """Whether each token, new ones included, is read in this slot, shape (tokens + births,)."""
        return mask(self.reads, self.tokens + self.births)

    @cached_property
    def resident(self) -> NDArray[np.bool_]:
        """Whether each past token is in tier 0, shape (tokens,)."""
        return self.tier == 0

    @cached_property
    def misses(self) -> Ids:
        """Tokens read from a slower tier, in list order."""
        return self.listed[~self.resident[self.listed]]


def mask(ids: Ids, size: int) -> NDArray[np.bool_]:
    """Return a boolean array of the given size, true at `ids`."""
    chosen = np.zeros(size, bool)
    chosen[ids] = True
    return chosen
