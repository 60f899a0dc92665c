"""Placements as packed bits on disk, for solvers that work on bits: the tokens in tier 0 after every slot.

Small ones are turned into events; the events of large ones would exhaust the memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace.timeline import Timeline

SCHEMA = "kvbound.residency/1"
EVENT_LIMIT = 1e9
"""Slots times tokens up to which a placement is kept as events."""


def exceeds_event_limit(instance: Instance) -> bool:
    """Whether a schedule is kept as bits, as its events would exhaust the memory."""
    return instance.slots * instance.tokens > EVENT_LIMIT


class Residency:
    """A placement of single tokens in two tiers, in temporary files that are removed with the process.

    A token that ends in the step of its birth never takes up room, and counts as born into the last tier.

    Attributes
    ----------
    timelines
        Births and ends of the tokens in each layer, shape (layers,).
    initial
        Tier of each prompt token's KV before the first slot, uint8, shape (layers, prefill).
    """

    initial: NDArray[np.uint8]

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        self.timelines = timelines
        self._files: dict[int, tuple[IO[bytes], tuple[int, ...]]] = {}
        opened = self._opened = ExitStack()
        weakref.finalize(self, opened.close)

    def __repr__(self) -> str:
        """Return the sizes, in a line."""
        layers, prefill = self.initial.shape
        return f"<Residency: {layers} layers, {prefill:,} prompt tokens>"

    def put(self, layer: int, after: NDArray[np.uint8]) -> None:
        """Keep a layer's bits, shape (steps, bytes): row j has the tokens in tier 0 after its slot j."""
        file = tempfile.TemporaryFile(prefix="kvbound-")  # noqa: SIM115 - it stays open
        self._opened.enter_context(file)
        file.write(np.ascontiguousarray(after).data)
        file.flush()
        self._files[layer] = file, after.shape

    def after(self, layer: int) -> NDArray[np.uint8]:
        """Return a layer's bits, a memory map of shape (steps, bytes), lowest bit first."""
        file, shape = self._files[layer]
        return np.memmap(file, np.uint8, "r", shape=shape)

    def tier0_rows(self, layer: int, timeline: Timeline) -> NDArray[np.uint8]:
        """Return a layer's bits; see `kvbound.placement.PhysicalPlacement`."""
        return self.after(layer)

    def to_schedule(self) -> Schedule:
        """Return it as events."""
        events = [
            _events(self.after(n), first == 0, timeline)
            for n, (first, timeline) in enumerate(zip(self.initial, self.timelines, strict=True))
        ]
        return Schedule(self.initial, tuple(events))

    def arrays(self, *, instance_sha256: str, tokens: int) -> Mapping[str, Any]:
        """Return what its file holds; a layer is read when its array is looked up."""
        return _Arrays(self, instance_sha256)


class _Arrays(Mapping[str, Any]):
    """The file's arrays by name."""

    def __init__(self, residency: Residency, instance_sha256: str) -> None:
        self._residency = residency
        self._small = {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(instance_sha256),
            "initial": residency.initial,
        }
        self._layers = {f"after_{layer}": layer for layer in range(len(residency.initial))}

    def __getitem__(self, name: str) -> Any:
        return self._small[name] if name in self._small else self._residency.after(self._layers[name])

    def __iter__(self) -> Iterator[str]:
        yield from (*self._small, *self._layers)

    def __len__(self) -> int:
        return len(self._small) + len(self._layers)


def _events(after: NDArray[np.uint8], inside: NDArray[np.bool_], timeline: Timeline) -> LayerEvents:
    """Return a layer's events: the changes from row to row, and last in each row the births."""
    before = np.zeros(after.shape[1], np.uint8)
    start = np.packbits(inside, bitorder="little")
    before[: len(start)] = start
    steps, tokens, tiers = [], [], []
    for step, row in enumerate(after):
        token = np.flatnonzero(np.unpackbits(row ^ before, bitorder="little"))
        past, end = timeline.past[step : step + 2]
        moved = token[token < past]
        token = np.concatenate([moved[timeline.ends[moved] > step], np.arange(past, end)])
        steps.append(np.full(len(token), step))
        tokens.append(token)
        tiers.append(1 - (row[token >> 3] >> (token & 7) & 1))
        before = row
    return LayerEvents.of(np.concatenate(steps), np.concatenate(tokens), np.concatenate(tiers))
