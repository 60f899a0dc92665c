"""The placement problem in fractions: slot times from their definition, and the relaxation of all paths.

What a block transfers in a slot, by its tier before and after, is that of brute force for the block alone.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.rules import Initial, Timing
from kvbound.solvers.reference.blocks import Block, blocks_of, resident_reads
from kvbound.solvers.reference.changes import base, slot_changes
from kvbound.solvers.reference.room import block_bytes, existing, free_bytes, prefill_first
from kvbound.solvers.reference.slot_times import size_ratios
from tests.exact.simplex import Program, Row

Loads = list[list[Fraction]]
"""Bytes read, read without a choice, and written, by tier."""


def slot_times(instance: Instance, loads: NDArray[np.float64]) -> NDArray[Any]:
    """Return seconds of slots as fractions; as `kvbound.solvers.reference.slot_times` does it in floats."""
    times = [_time(instance, [[Fraction(each) for each in row] for row in slot]) for slot in loads.tolist()]
    found = np.empty(len(times), object)
    found[:] = times
    return found


def _time(instance: Instance, loads: Loads) -> Fraction:
    """Return the least time over the reads that each tier leaves to the last one: none, all, or some."""
    last = instance.tiers - 1
    free = [instance.inclusive and k < last and read > 0 for k, read in enumerate(loads[0])]
    late = any(tier.latency for tier in instance.memory.tiers)
    ways = ("none", "all", "some") if late or instance.rules.timing is Timing.SERIAL else ("some",)
    return min(
        _least(instance, loads, choice) for choice in product(*(ways if each else ("none",) for each in free))
    )


def _least(instance: Instance, loads: Loads, choice: tuple[str, ...]) -> Fraction:
    """Return the least time if tiers leave none, all or some of their reads to the last one."""
    memory, last = instance.memory, instance.tiers - 1
    read, extra, written = loads
    moved = [each if way == "all" else Fraction(0) for each, way in zip(read, choice, strict=True)]
    served = [r + e - m for r, e, m in zip(read, extra, moved, strict=True)]
    served[last] += sum(moved, Fraction(0))
    reading = {k for k in range(last + 1) if served[k] > 0}
    reading |= {last} if "some" in choice else set()
    seconds, waits = {}, {}
    for r, (name, rate) in enumerate(memory.resources.items()):
        byte = [_byte(instance, k, r, write=False) for k in range(last + 1)]
        load = sum((n * each for n, each in zip(served, byte, strict=True)), Fraction(0))
        load += sum((n * _byte(instance, k, r, write=True) for k, n in enumerate(written)), Fraction(0))
        on_it = [memory.tiers[k].latency for k in reading if name in memory.tiers[k].reads]
        waits[r] = Fraction(max(on_it, default=0.0))
        seconds[r] = load / Fraction(rate)
    if instance.rules.timing is Timing.SERIAL:
        late = sum((Fraction(memory.tiers[k].latency) for k in reading), Fraction(0))
        return sum(seconds.values(), late) if "some" not in choice else seconds[0] * 0 + 10**30
    program = Program()
    time, some = program.column(Fraction(1)), {}
    for k, way in enumerate(choice):
        if way == "some":
            some[k] = program.column()
            program.at_most({some[k]: Fraction(1)}, read[k])
    for r, rate in enumerate(memory.resources.values()):
        row: Row = {time: Fraction(-1)}
        for k, column in some.items():
            row[column] = (_byte(instance, last, r, write=False) - _byte(instance, k, r, write=False)) / (
                Fraction(rate)
            )
        program.at_most(row, -seconds[r] - waits[r])
    least = program.minimum()
    assert least is not None
    return least


def _byte(instance: Instance, tier: int, resource: int, *, write: bool) -> Fraction:
    """Return the bytes on a resource for a byte of the llm's format read from, or written to, a tier."""
    load = instance.memory.write_load if write else instance.memory.read_load
    usual, size = max(instance.llm.kv_sizes), size_ratios(instance)[tier]
    return Fraction(float(load[tier, resource])) * Fraction(round(size * usual), usual)


def relaxation(instance: Instance) -> Fraction | None:
    """Return the least time of mixtures of paths, with reads split as fits: for instances without latencies.

    No Lagrangian bound without whole counts is above it.
    """
    program, steps, layers = Program(), instance.decode_steps, instance.layers
    rooms: dict[tuple[int, int], Row] = {}
    counts: dict[tuple[int, int], list[Row]] = {}
    for layer in range(layers):
        blocks = blocks_of(instance, layer)
        forced = _forced(instance, layer)
        for number, block in enumerate(blocks):
            _add_paths(program, instance, layer, block, forced.get(number), rooms, counts)
    for (tier, _), row in rooms.items():
        free = free_bytes(instance)[tier]
        if free != float("inf") and not (instance.inclusive and tier == instance.tiers - 1):
            # blocks are whole, and room counts in the largest unit that divides all of them
            unit = math.gcd(
                *(int(size) for (k, _), other in rooms.items() if k == tier for size in other.values())
            )
            program.at_most(row, Fraction(int(free) // unit * unit if unit else int(free)))
    together = range(layers) if instance.by_step else None
    for step in range(steps):
        for period in [together] if together else [[layer] for layer in range(layers)]:
            _add_time(program, instance, step, list(period), counts)
    return program.minimum()


def _forced(instance: Instance, layer: int) -> dict[int, int]:
    """Return the tiers of the blocks of the prompt that a rule determines."""
    if instance.rules.initial is not Initial.PREFILL_FIRST:
        return {}
    blocks = [blocks_of(instance, n) for n in range(instance.layers)]
    held = [existing(of_layer, -1) for of_layer in blocks]
    state = prefill_first(instance, blocks, held)[layer]
    return {number: state // instance.tiers**n % instance.tiers for n, number in enumerate(held[layer])}


def _add_paths(
    program: Program,
    instance: Instance,
    layer: int,
    block: Block,
    forced: int | None,
    rooms: dict[tuple[int, int], Row],
    counts: dict[tuple[int, int], list[Row]],
) -> None:
    """Add a block's paths: a flow of 1 from slot to slot, and what it counts as on the way."""
    tiers, above = instance.tiers, base(instance)
    sizes = [block_bytes(instance, layer, k, block) for k in range(tiers)]
    state: dict[int, Row] = {}

    def holds(moment: int, until: int) -> None:
        for at in range(moment, until):
            for k, flows in state.items():
                row = rooms.setdefault((k, at), {})
                for column, share in flows.items():
                    row[column] = row.get(column, Fraction(0)) + share * sizes[k]

    if block.exists(-1):
        for k in range(tiers):
            column = program.column()
            state[k] = {column: Fraction(1)}
            if forced is not None:
                program.equal(dict(state[k]), Fraction(k == forced))
        program.equal({n: Fraction(1) for flows in state.values() for n in flows}, Fraction(1))
        holds(0, 1 + layer)
    for step in range(instance.decode_steps):
        slot = slot_changes(instance, [block], step, layer)
        before, after = block.exists(step - 1), block.exists(step)
        if not (before or after or slot.passing):
            continue
        arrived: dict[int, Row] = {}
        left: dict[int, Row] = {k: {} for k in state}
        for source, target in np.ndindex(*slot.code.shape):
            code = int(slot.code[source, target])
            if code < 0:
                continue
            column = program.column()
            if before:
                left[source][column] = Fraction(1)
            else:
                left.setdefault(-1, {})[column] = Fraction(1)
            if after:
                arrived.setdefault(target, {})[column] = Fraction(1)
            digits = [code // instance.layers // above**n % above for n in range(3 * tiers)]
            kinds = counts.setdefault((step, layer), [{} for _ in range(3 * tiers)])
            for kind, digit in zip(kinds, digits, strict=True):
                if digit:
                    kind[column] = Fraction(digit)
        for k, flows in left.items():
            into = state.get(k, {})
            row = dict(flows)
            for n, share in into.items():
                row[n] = row.get(n, Fraction(0)) - share
            program.equal(row, Fraction(0 if before else 1))
        state = arrived
        if after:
            moment = 1 + step * instance.layers + layer
            holds(moment, min(moment + instance.layers, 1 + instance.slots))


def _add_time(
    program: Program,
    instance: Instance,
    step: int,
    layers: list[int],
    counts: dict[tuple[int, int], list[Row]],
) -> None:
    """Add the time of slots that are timed together: at least that of every resource, or of all."""
    tiers, last, memory = instance.tiers, instance.tiers - 1, instance.memory
    kinds: list[Row] = [{} for _ in range(3 * tiers)]
    weights = Fraction(0)
    for layer in layers:
        size = Fraction(instance.llm.kv_sizes[layer])
        for kind, row in zip(kinds, counts.get((step, layer), [{}] * (3 * tiers)), strict=True):
            kind.update({n: each * size for n, each in row.items()})
        weights += Fraction(resident_reads(instance, layer))
    time = program.column(Fraction(1))
    diverted = {k: program.column() for k in range(last)} if instance.inclusive else {}
    for k, column in diverted.items():
        program.at_most({n: -each for n, each in kinds[k].items()} | {column: Fraction(1)}, Fraction(0))
    busy = []
    for r, rate in enumerate(memory.resources.values()):
        row = {}
        byte = [_byte(instance, k, r, write=False) for k in range(tiers)]
        for k in range(tiers):
            for kind, cost in (
                (kinds[k], byte[k]), (kinds[tiers + k], byte[k]),
                (kinds[2 * tiers + k], _byte(instance, k, r, write=True)),
            ):  # fmt: skip
                for n, each in kind.items():
                    row[n] = row.get(n, Fraction(0)) + each * cost / Fraction(rate)
        for k, column in diverted.items():
            row[column] = (byte[last] - byte[k]) / Fraction(rate)
        # weights count as if they were stored in the format of tier 0
        fixed = weights * byte[0] / Fraction(rate) / Fraction(round(size_ratios(instance)[0] * max(
            instance.llm.kv_sizes)), max(instance.llm.kv_sizes))  # fmt: skip
        busy.append((row, fixed))
    if instance.rules.timing is Timing.SERIAL:
        total: Row = {}
        for row, _ in busy:
            for n, each in row.items():
                total[n] = total.get(n, Fraction(0)) + each
        busy = [(total, sum((fixed for _, fixed in busy), Fraction(0)))]
    for row, fixed in busy:
        program.at_most(row | {time: Fraction(-1)}, -fixed)
