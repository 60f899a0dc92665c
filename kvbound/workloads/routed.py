"""Synthetic routing: the experts of a mixture that the tokens of any synthetic workload are routed to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.fields import MAX_EXPERTS, Fields, show
from kvbound.trace.experts import pack, union
from kvbound.trace.timeline import Timeline
from kvbound.workloads.batch import Batch
from kvbound.workloads.synthetic import OneSequence, Synthetic

FIELDS: Final = "experts", "experts_per_token", "repeat"
"""The fields of routing in the description of a workload."""
_ROUTING: Final = 1 << 21
"""Spawn key of the routing's random streams, one for each layer and sequence: no layer has this number."""


@dataclass(frozen=True)
class Routed(Synthetic):
    """A workload whose slots also name experts: those of all sequences that are decoded in the step.

    Each token of a sequence is routed in each layer to as many experts, uniformly drawn, or again to those of
    the token before it. The reads are those of the workload without routing.

    Parameters
    ----------
    of
        The workload.
    count
        Experts in each layer, 0 where there are none, (layers,).
    per_token
        Experts that a token is routed to.
    repeat
        Probability with which a token keeps the experts of the one before it.
    """

    of: OneSequence | Batch
    count: tuple[int, ...]
    per_token: int = 1
    repeat: float = 0.0
    layers: int = field(init=False, repr=False, compare=False)
    prefill_tokens: int = field(init=False, repr=False, compare=False)
    decode_steps: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("layers", "prefill_tokens", "decode_steps"):
            object.__setattr__(self, name, getattr(self.of, name))

    @classmethod
    def parse(cls, of: OneSequence | Batch, fields: Fields) -> Synthetic:
        """Read the routing, if there is any.

        Raises
        ------
        InputError
            A field is missing or out of range.
        """
        if not any(fields.has(name) for name in FIELDS):
            return of
        given = fields.raw("experts", "experts of a layer")
        listed = isinstance(given, list | tuple)
        expected = f"1 to {MAX_EXPERTS:,} experts in a layer, or a list of one number per layer, not all 0"
        counts = tuple(given) if listed else (given,) * of.layers
        whole = all(type(count) is int and 0 <= count <= MAX_EXPERTS for count in counts)
        if not whole or len(counts) != of.layers or not any(counts):
            raise fields.error("experts", f"{expected}, not {show(given)}")
        least = min(count for count in counts if count)
        per_token = fields.integer("experts_per_token", 1, least, default=1)
        repeat = fields.share("repeat", default=0.0)
        return cls(of, counts, per_token, repeat)

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Kind of the workload."""
        return self.of.kind

    @property
    def version(self) -> int:  # type: ignore[override]
        """Version of the kind."""
        return self.of.version

    @property
    def timeline(self) -> Timeline:
        """Births and ends of the tokens."""
        return self.of.timeline

    @property
    def expert_counts(self) -> tuple[int, ...]:
        """Number of experts of each layer, shape (layers,)."""
        return self.count

    @cached_property
    def experts(self) -> tuple[NDArray[np.uint8], ...]:
        """Packed experts that each step names, by layer; see `kvbound.trace.Trace`."""
        batch = self.of if isinstance(self.of, Batch) else None
        starts = batch.starts if batch else (0,)
        one = batch.of if batch else self.of
        assert isinstance(one, OneSequence)
        sequences = [
            tuple(pack(self._drawn(one, layer, number)) for layer in range(self.layers))
            for number in range(len(starts))
        ]
        return union(sequences, starts, self.decode_steps)

    def _drawn(self, one: OneSequence, layer: int, sequence: int) -> NDArray[np.bool_]:
        """Draw the experts of a sequence's tokens in a layer, (steps, experts)."""
        count, steps = self.count[layer], one.decode_steps
        named = np.zeros((steps, count), np.bool_)
        if not count:
            return named
        key = _ROUTING, layer, sequence
        rng = np.random.default_rng(np.random.SeedSequence(one.seed, spawn_key=key))
        lucky = rng.random(steps) < self.repeat
        lucky[0] = False
        keys = rng.random((steps, count))
        named[np.arange(steps)[:, None], np.argsort(keys, axis=1)[:, : self.per_token]] = True
        latest = np.maximum.accumulate(np.where(lucky, 0, np.arange(steps)))  # step of the choice in force
        return named[latest]

    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping that `kvbound.workloads.from_mapping` reads."""
        alike = len(set(self.count)) == 1
        routing = self.count[0] if alike else list(self.count), self.per_token, self.repeat
        return self.of.to_mapping() | dict(zip(FIELDS, routing, strict=True))

    def step_counts(self) -> NDArray[np.int64]:
        """Reads of each step, (steps,)."""
        return self.of.step_counts()

    def packed_rows(self, layer: int) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        return self.of.packed_rows(layer)
