"""Instances that minimise energy or a mix, for the tests of several folders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import kvbound as kv
from kvbound.instance import Instance
from kvbound.memory import Memory
from kvbound.objective import Objective
from tests.energy_cases import with_any_energy
from tests.strategies import (
    tiny_instance,
    with_formats,
    with_layers,
    with_overlap,
    with_placeable_weights,
)

WEIGHTS = ((0.0, 1.0), (0.0, 1e11), (1.0, 1e9), (1.0, 1e10), (1.0, 1e11), (1.0, 1e12), (0.5, 3e9), (2.0, 0.0))
"""Of a second and a joule: in tiny instances a byte takes about a second, and some 1e-11 J."""


def any_objective(rng: np.random.Generator, instance: Instance) -> Instance:
    """The instance with random energies and weights, often with two that are equal, at times with a power."""
    names, memory = list(instance.memory.resources), instance.memory
    while True:
        made = with_any_energy(rng, instance)
        energy = dict(made.memory.energy)
        if rng.random() < 0.3:  # ties
            energy[names[0]] = energy[names[-1]]
        if any(levels["device"]["mid"] for levels in energy.values()):
            break
    watts = float(rng.choice([1e-11, 1e-10, 1.0])) if rng.random() < 0.3 else None
    memory = replace(made.memory, energy=energy, static_watts=watts)
    time, joule = WEIGHTS[int(rng.integers(len(WEIGHTS)))]
    return replace(made, memory=memory, objective=Objective(time, joule))


def tiny_mix(seed: int, **fixed: Any) -> Instance:
    """A tiny instance of any rules; there may be latencies, formats, unlike layers, or placeable weights."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=bool(rng.integers(2)), **fixed)
    kind = rng.random()
    if kind < 0.15:
        instance = with_formats(rng, instance)
    elif kind < 0.3:
        instance = with_layers(rng, instance)
    elif kind < 0.45:
        instance = with_placeable_weights(rng, instance)
    return with_overlap(rng, any_objective(rng, instance))


def swap(**objective: Any) -> Instance:
    """A small instance of recorded size whose energies are known, by default of time alone."""
    mid = {"hbm": 3.97, "pcie_down": 11.4, "pcie_up": 11.4, "lpddr": 10.0}
    energy = {
        name: {"device": {"low": each / 2, "mid": each, "high": 2 * each}} for name, each in mid.items()
    }
    instance = kv.read_instance("swap-2x48-c30-b64")
    instance = replace(instance, memory=replace(instance.memory, energy=energy))
    return instance.with_objective(**objective)


def cheap_last(memory: Memory) -> Memory:
    """The memory with energies by which the last tier is the cheapest to read, and so are writes to it."""
    energy = {name: {"device": {"mid": 100.0}} for name in memory.resources}
    for name in (*memory.tiers[-1].reads, *memory.tiers[-1].writes):
        energy[name] = {"device": {"mid": 1.0}}
    return replace(memory, energy=energy)


tiny_mixes = st.integers(0, 2**32 - 1).map(tiny_mix)
