"""Batches of synthetic sequences of one kind, which begin together or at different steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import Fields, as_number, located, show
from kvbound.trace import bits
from kvbound.trace.batch import Reader, combined_rows, timeline_of
from kvbound.trace.build import MAX_SLOTS, too_large
from kvbound.trace.timeline import Timeline
from kvbound.workloads.synthetic import OneSequence, Synthetic

Ints = NDArray[np.int64]

MAX_SEQUENCES: Final = 4096
_ARRIVALS: Final = 1 << 20
"""Spawn key of the arrivals' random stream: no layer has this number."""


@dataclass(frozen=True)
class Batch(Synthetic):
    """Sequences of one kind, each with its own reads, decoded together; see `kvbound.trace.batch.batch`.

    Parameters
    ----------
    of
        One of the sequences.
    batch
        Number of sequences, at least 2.
    arrivals
        First step of each sequence, the earliest 0; or the mean number of sequences that begin per step (a
        Poisson process with the workload's seed, the first at 0); None lets all begin at 0.

    Raises
    ------
    InputError
        A value is out of range.
    """

    of: OneSequence
    batch: int
    arrivals: tuple[int, ...] | float | None = None
    layers: int = field(init=False, repr=False, compare=False)
    prefill_tokens: int = field(init=False, repr=False, compare=False)
    decode_steps: int = field(init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, of: OneSequence, fields: Fields) -> OneSequence | Batch:
        """Read the number of sequences and their arrivals; a batch of one is the sequence itself."""
        count = fields.integer("batch", 1, MAX_SEQUENCES, default=1)
        given = fields.raw("arrivals", default=None)
        arrivals: tuple[int, ...] | float | None = None
        if isinstance(given, list | tuple):
            arrivals = tuple(given)
        elif given is not None:
            number = as_number(given)
            if number is None or not 1e-9 <= number <= 1e9:
                expected = "a list of first steps such as [0, 2, 4], or how many sequences begin per step"
                raise fields.error("arrivals", f"{expected}, from 1e-09 to 1e+09, not {show(given)}")
            arrivals = number
        with located(fields.file, fields.field):
            made = cls(of, count, arrivals)
        return of if count == 1 else made

    def __post_init__(self) -> None:
        place = f"workload {self.kind}"
        if isinstance(self.arrivals, tuple):
            whole = all(type(step) is int and 0 <= step <= MAX_SLOTS for step in self.arrivals)
            if not whole or len(self.arrivals) != self.batch or min(self.arrivals) != 0:
                first = f"the first step of each of {self.batch:,} sequences, the earliest 0"
                raise InputError(place, "arrivals", f"{first}, not {show(list(self.arrivals))}")
        for name, value in {
            "layers": self.of.layers,
            "prefill_tokens": self.of.prefill_tokens * self.starts.count(0),
            "decode_steps": max(self.starts) + self.of.decode_steps,
        }.items():
            object.__setattr__(self, name, value)
        if excess := too_large(self.of.layers, self.batch * self.of.tokens, self.decode_steps):
            raise InputError(place, "batch", excess)

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Kind of the sequences."""
        return self.of.kind

    @property
    def version(self) -> int:  # type: ignore[override]
        """Version of the kind."""
        return self.of.version

    @property
    def dense(self) -> bool:  # type: ignore[override]
        """Whether every sequence reads all its past tokens."""
        return self.of.dense

    @property
    def timeline(self) -> Timeline:
        """Births and ends of the tokens."""
        return self._placed[0]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First step of each sequence."""
        if self.arrivals is None:
            return (0,) * self.batch
        if isinstance(self.arrivals, tuple):
            return self.arrivals
        stream = np.random.default_rng(np.random.SeedSequence(self.of.seed, spawn_key=(_ARRIVALS,)))
        gaps = stream.exponential(1 / self.arrivals, self.batch - 1)
        return (0, *np.minimum(np.cumsum(gaps), MAX_SLOTS).astype(np.int64).tolist())

    @cached_property
    def _placed(self) -> tuple[Timeline, list[Ints]]:
        shape = self.of.prefill_tokens, self.of.decode_steps
        return timeline_of([shape] * self.batch, self.starts)

    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping that `kvbound.workloads.from_mapping` reads."""
        mapping = self.of.to_mapping() | {"batch": self.batch}
        if self.arrivals is not None:
            listed = list(self.arrivals) if isinstance(self.arrivals, tuple) else self.arrivals
            mapping["arrivals"] = listed
        return mapping

    def step_counts(self) -> Ints:
        """Reads of each step, (steps,)."""
        counts, own = np.zeros(self.decode_steps, np.int64), self.of.step_counts()
        for start in self.starts:
            counts[start : start + len(own)] += own
        return counts

    def packed_rows(self, layer: int) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        readers = [
            _reader(self.of.packed_rows(layer, number), self.of.tokens) for number in range(self.batch)
        ]
        lengths = [self.of.decode_steps] * self.batch
        return combined_rows(readers, lengths, self.starts, *self._placed)


def _reader(blocks: Iterator[NDArray[np.uint8]], tokens: int) -> Reader:
    """Return a function that returns the next rows of a sequence, as many as asked for, unpacked."""
    left = np.zeros((0, bits.row_bytes(tokens)), np.uint8)

    def read(count: int) -> NDArray[np.uint8]:
        nonlocal left
        while len(left) < count:
            left = np.concatenate([left, next(blocks)])
        rows, left = left[:count], left[count:]
        return bits.unpack(rows, tokens)

    return read
