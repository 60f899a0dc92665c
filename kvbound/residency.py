"""Who is in tier 0 after every slot, as packed bits on disk: what solvers make that work on bits.

Small ones become events; of large ones the events would fill the memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.reading import open_npz
from kvbound.schedule import ANOTHERS, LayerEvents, Schedule, read_schedule

SCHEMA = "kvbound.residency/1"
MOST = 1e9
"""Slots times tokens up to which a schedule is kept as events."""


def exceeds_event_limit(instance: Instance) -> bool:
    """Whether the events of a schedule would fill the memory, so that it is kept as bits."""
    return instance.slots * instance.tokens > MOST


class Residency:
    """A placement in two tiers, token by token, in temporary files that go with the process at the latest.

    Attributes
    ----------
    initial
        Tier of each prompt token's KV before the first slot, uint8, shape (layers, prefill).
    """

    initial: NDArray[np.uint8]

    def __init__(self) -> None:
        self._files: dict[int, tuple[IO[bytes], tuple[int, ...]]] = {}
        opened = self._opened = ExitStack()
        weakref.finalize(self, opened.close)

    def __repr__(self) -> str:
        """Return the sizes, in a line."""
        layers, prefill = self.initial.shape
        return f"<Residency: {layers} layers, {prefill:,} prompt tokens>"

    def put(self, layer: int, after: NDArray[np.uint8]) -> None:
        """Keep a layer's bits, (steps, bytes): of row j, the tokens in tier 0 after the layer's slot j."""
        file = tempfile.TemporaryFile(prefix="kvbound-")  # noqa: SIM115 - it has no name, and stays open
        self._opened.enter_context(file)
        file.write(np.ascontiguousarray(after).data)
        file.flush()
        self._files[layer] = file, after.shape

    def after(self, layer: int) -> NDArray[np.uint8]:
        """Return a layer's bits, a memory map of shape (steps, bytes), lowest bit first."""
        file, shape = self._files[layer]
        return np.memmap(file, np.uint8, "r", shape=shape)

    def schedule(self) -> Schedule:
        """Return it by its events."""
        prefill = self.initial.shape[1]
        events = [_events(self.after(n), first == 0, prefill) for n, first in enumerate(self.initial)]
        return Schedule(self.initial, tuple(events))

    def arrays(self, instance_sha256: str) -> Mapping[str, Any]:
        """Return what its file holds; layers are read when asked for."""
        return _Arrays(self, instance_sha256)

    def write(self, path: Path | str, *, instance_sha256: str) -> None:
        """Write the file, tied to its instance."""
        with atomic_write(path) as temporary, temporary.open("wb") as out:
            np.savez_compressed(out, **self.arrays(instance_sha256))


def read_start(path: Path | str, instance: Instance) -> Schedule | Residency:
    """Read schedule.npz of either kind; whether it keeps to the rules is the checker's business.

    Raises
    ------
    InputError
        The file is no schedule, or one of another instance.
    """
    layers, prefill, steps = instance.layers, instance.prefill_tokens, instance.decode_steps
    with open_npz(path, "a schedule file") as file:
        if file.text("schema") != SCHEMA:
            return read_schedule(
                path, instance_sha256=instance.sha256, layers=layers, prefill=prefill, steps=steps
            )
        if file.text("instance_sha256") != instance.sha256:
            raise InputError(path, "instance_sha256", ANOTHERS)
        residency = Residency()
        residency.initial = file.array("initial", np.uint8, layers, prefill)
        for layer in range(layers):
            residency.put(layer, file.array(f"after_{layer}", np.uint8, *instance.trace.rows[layer].shape))
        return residency


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


def _events(after: NDArray[np.uint8], inside: NDArray[np.bool_], prefill: int) -> LayerEvents:
    """Changes from row to row, and the births; moves before the birth."""
    before = np.zeros(after.shape[1], np.uint8)
    start = np.packbits(inside, bitorder="little")
    before[: len(start)] = start
    steps, tokens, tiers = [], [], []
    for step, row in enumerate(after):
        token = np.flatnonzero(np.unpackbits(row ^ before, bitorder="little"))
        token = np.append(token[token < prefill + step], prefill + step)
        steps.append(np.full(len(token), step))
        tokens.append(token)
        tiers.append(1 - (row[token >> 3] >> (token & 7) & 1))
        before = row
    return LayerEvents.of(np.concatenate(steps), np.concatenate(tokens), np.concatenate(tiers))
