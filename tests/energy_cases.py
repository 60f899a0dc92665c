"""Energies for the instances of other tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kvbound.instance import Instance
from kvbound.memory import Energy, Memory


def energies(picojoules: dict[str, float]) -> dict[str, Energy]:
    """The energy of each resource in pJ per byte, as a memory states it."""
    return {name: {"device": {"mid": value / 8}} for name, value in picojoules.items()}


def with_energy(instance: Instance, picojoules: dict[str, float], **fields: Any) -> Instance:
    """The instance with energies of resources in pJ per byte, and further fields of its memory."""
    memory = replace(instance.memory, energy=energies(picojoules), **fields)
    return replace(instance, memory=memory)


def with_any_energy(rng: np.random.Generator, instance: Instance, unknown: float = 0.0) -> Instance:
    """The instance with random energies, of which some are unknown, and all further fields.

    Parameters
    ----------
    unknown
        Chance that a resource has no energy.
    """
    names = list(instance.memory.resources)
    each = {name: float(rng.integers(0, 200)) for name in names if rng.random() >= unknown}
    made = with_energy(
        instance, each, static_watts=float(rng.integers(0, 9)), mac_energy={"device": {"mid": 1.5}}
    )
    return replace(made, llm=replace(made.llm, parameters=int(rng.integers(1, 100))))


def scaled(memory: Memory, factor: float) -> Memory:
    """The memory with all its energies and its power multiplied."""
    energy = {name: _times(levels, factor) for name, levels in memory.energy.items()}
    watts = None if memory.static_watts is None else factor * memory.static_watts
    return replace(memory, energy=energy, mac_energy=_times(memory.mac_energy, factor), static_watts=watts)


def _times(levels: Energy, factor: float) -> Energy:
    return {
        level: {name: factor * value for name, value in points.items()} for level, points in levels.items()
    }
