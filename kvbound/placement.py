"""Placements: where every item is after every slot, in any form in which it is kept, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.reading import open_npz
from kvbound.residency import SCHEMA as RESIDENCY
from kvbound.residency import Residency
from kvbound.schedule import WRONG_INSTANCE, Schedule, read_schedule
from kvbound.trace.timeline import Timeline


@runtime_checkable
class Placement(Protocol):
    """Where every item is after every slot: what a result holds, a file stores and the checker replays.

    `Schedule` keeps events, `Residency` packed bits, and `kvbound.fang2025.Run` the log of that study's pool.
    """

    def arrays(self, *, instance_sha256: str, tokens: int) -> Mapping[str, Any]:
        """Return what its file holds by name, tied to its instance."""


@runtime_checkable
class PhysicalPlacement(Placement, Protocol):
    """A placement under physical accounting, from which solvers can start."""

    @property
    def initial(self) -> NDArray[np.uint8]:
        """Tier of each prompt token's KV before the first slot, shape (layers, prefill)."""

    def to_schedule(self) -> Schedule:
        """Return it as events."""

    def tier0_rows(self, layer: int, timeline: Timeline) -> NDArray[np.uint8]:
        """Return which of a layer's tokens are in tier 0 after each slot, for blocks of one token.

        Packed as a trace's rows are: shape (steps, bytes), lowest bit first.
        """


def write_placement(placement: Placement, path: Path | str, *, instance_sha256: str, tokens: int) -> None:
    """Write schedule.npz."""
    arrays = placement.arrays(instance_sha256=instance_sha256, tokens=tokens)
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, **arrays)


def read_placement(path: Path | str, instance: Instance) -> PhysicalPlacement:
    """Read schedule.npz of a physical placement; the checker determines whether it is valid.

    Raises
    ------
    InputError
        The file holds no schedule, or one of another instance.
    """
    layers, timeline = instance.layers, instance.timeline
    with open_npz(path, "a schedule file") as file:
        if file.text("schema") != RESIDENCY:
            return read_schedule(path, instance_sha256=instance.sha256, layers=layers, timeline=timeline)
        if file.text("instance_sha256") != instance.sha256:
            raise InputError(path, "instance_sha256", WRONG_INSTANCE)
        residency = Residency(instance.timelines)
        residency.initial = file.array("initial", np.uint8, layers, timeline.prefill_tokens)
        for layer in range(layers):
            residency.put(layer, file.array(f"after_{layer}", np.uint8, *instance.trace.rows[layer].shape))
        return residency
