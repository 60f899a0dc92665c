"""What every form of a physical schedule is checked for once it is replayed: start, capacities, times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.energy import Transfers, energy_of
from kvbound.checker.inputs import Case, slot_name
from kvbound.checker.objective import TIME
from kvbound.checker.report import Energy, Floats, Ints, Report, compare, note
from kvbound.checker.slots import busy_times, slot_costs, slot_times


@dataclass(frozen=True)
class Layer:
    """Counts of one layer's slots, in items (`held` in blocks), each ``(steps, tiers)``.

    `read`, `extra` and `written` are those of `kvbound.checker.slots.slot_times`. Of these items, `born` are
    written by births, and `placed` are read of chunks of weights, in all slots together, ``(tiers,)``.
    """

    read: Ints
    extra: Ints
    written: Ints
    held: Ints  # change of the number of blocks in each tier
    moved: tuple[float, float]  # bytes written up, down
    born: Ints
    placed: Ints


def settle(case: Case, initial: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace the initial tiers of items that do not exist, which mean nothing.

    Such an item takes its block's tier, or the last one if none of the block's items exists.
    """
    if not any(life.never.size for life in case.lives):
        return initial
    settled = initial.copy()
    for tiers, life in zip(settled, case.lives, strict=True):
        block = life.block[life.never]
        tiers[life.never] = np.where(life.held[block], tiers[life.witness[block]], len(case.names) - 1)
    return settled


def prefill_first(case: Case) -> Ints:
    """Return the tier of each prompt token under prefill-first, (layers, prompt).

    Blocks, ordered by their tokens and, within the same tokens, by layer, go to the fastest tier with room;
    those that do not exist are given the last tier.
    """
    block = case.life.block[: case.prefill]
    if not case.alike:
        return _first_with_room(case)[:, block]
    most = case.layers * case.tokens  # at least the number of blocks
    limits = [most if free is None else min(max(free, 0), most) for free in case.room[:-1]]
    rank = block * case.layers + np.arange(case.layers)[:, None]
    return np.searchsorted(np.cumsum(limits), rank, side="right")


def _first_with_room(case: Case) -> Ints:
    """Return the tier of each block of the prompt, (layers, blocks)."""
    blocks, last = case.life.prompt, len(case.names) - 1
    tiers = np.full(blocks * case.layers, last)
    sizes = np.ones((blocks, case.layers), np.int64)
    for layer, life in enumerate(case.lives):
        sizes[:, layer] = life.held[:blocks] * life.blocks_in(np.arange(blocks))
    waiting = np.flatnonzero(sizes)
    for tier, room in enumerate(case.room[:-1]):
        units = case.unit_counts[waiting % case.layers, tier]
        fits = _fitting(units * sizes.ravel()[waiting], room)
        tiers[waiting[fits]] = tier
        waiting = waiting[~fits]
    return tiers.reshape(blocks, case.layers).T


def _fitting(units: NDArray[Any], room: int | None) -> NDArray[np.bool_]:
    """Return which of the blocks of so many units, one after the other, still fit into the room."""
    total = int(units.sum())
    left = total if room is None else min(max(room, 0), total)
    fits, waiting = np.zeros(units.size, np.bool_), np.flatnonzero(units <= left)
    while waiting.size:
        filled = np.cumsum(units[waiting])
        count = int(np.searchsorted(filled, left, side="right"))
        fits[waiting[:count]] = True
        left -= int(filled[count - 1])
        # the next one did not fit: nor will any other of its size, so that there are few rounds
        waiting = waiting[count:]
        waiting = waiting[units[waiting] <= left]
    return fits


def check_initial(case: Case, initial: NDArray[np.uint8], problems: list[str]) -> None:
    """Verify the initial fill where the rule `prefill-first` determines it."""
    if case.rules["initial"] != "prefill-first":
        return
    forced = prefill_first(case)

    def describe(k: int) -> str:
        layer, token = divmod(k, case.prefill)
        wanted, found = case.names[forced[layer, token]], case.names[initial[layer, token]]
        what = f"{'prompt ' if token >= case.first else ''}{case.named(token)}"
        return f"layer {layer}: prefill-first puts {what} into {wanted}, the schedule into {found}"

    note(problems, (initial != forced).ravel(), describe)


def conclude(
    schema: str, case: Case, initial: NDArray[np.uint8], layers: list[Layer], claimed_s: float | None,
    problems: list[str],
) -> Report:  # fmt: skip
    """Check capacities and the claimed time, and return the report on all layers."""
    peaks = _check_capacity(case, initial, np.stack([layer.held for layer in layers], axis=1), problems)
    sizes = np.array([case.sizes(layer) for layer in range(case.layers)], float)
    read, extra, written = (
        np.stack([getattr(layer, kind) for layer in layers], axis=1) * sizes
        for kind in ("read", "extra", "written")
    )  # (steps, layers, tiers) each
    transfers = _transfers(case, layers, (read, extra, written), sizes)
    extra[:, :, 0] += case.weight_reads
    times, busy, costs, one_split = _times(case, (read, extra, written))
    hits, steps = read.reshape(-1, len(case.names)).sum(axis=0), times.sum(axis=1)
    time_s = float(steps.sum())
    if one_split:
        compare(problems, claimed_s, time_s)
    up, down = np.sum([layer.moved for layer in layers], axis=0, dtype=float)
    moved = {"up": float(up), "down": float(down)}
    return Report(
        schema, tuple(problems), case.sha256, time_s, steps, hits, peaks, moved,
        busy=None if busy is None else busy / (time_s or 1.0), energy=_energy(case, sizes, transfers, busy),
        time_alone=case.objective.time_alone, objective=costs, one_split=one_split,
        least_s=None if one_split else _least(case, (read, extra, written)),
    )  # fmt: skip


def _transfers(
    case: Case, layers: list[Layer], loads: tuple[Floats, Floats, Floats], sizes: Floats
) -> Transfers:
    """Return the bytes of all slots by what they are for, without resident weights in the loads."""
    read, extra, written = (load.sum(axis=0) for load in loads)
    born, placed = (np.array([getattr(each, kind) for each in layers]) * sizes for kind in ("born", "placed"))
    weights = np.zeros_like(read)
    weights[:, 0] = case.steps * case.weight_reads
    return Transfers(weights, placed, read - placed, born, written - born, extra)


def _energy(case: Case, sizes: Floats, transfers: Transfers, busy: Floats | None) -> Energy | None:
    """Return the energy of all transfers, given the seconds that each resource is busy if they are unique."""
    return energy_of(
        case.energies, (case.reads, case.writes), sizes, transfers,
        None if busy is None else busy * case.bandwidth, inclusive=case.rules["copies"] == "inclusive",
    )  # fmt: skip


def _least(case: Case, loads: tuple[Floats, Floats, Floats]) -> float:
    """Return the least decode time of any splits of a schedule's reads."""
    return float(_times(replace(case, objective=TIME), loads)[0].sum())


def _times(
    case: Case, loads: tuple[Floats, Floats, Floats]
) -> tuple[Floats, Floats | None, float | None, bool]:
    """Return the time of each slot, (steps, layers), and how long each resource is busy in all of them.

    If the transfers of all layers end with the step, these are times of steps, (steps, 1). Also what all of
    them cost where the objective is not time alone, and whether only these times do.

    What a read costs at the other copy depends on the ratios of a layer's sizes in the tiers. Layers with
    equal ratios, such as all layers with the same formats, are costed together.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for layer, units in enumerate(case.units):
        common = math.gcd(*units)
        alike.setdefault(tuple(n // common if common else 1 for n in units), []).append(layer)
    if case.by_step:
        read, extra, written = (load.sum(axis=1, keepdims=True) for load in loads)
        loads, alike = (read, extra, written), {(1,) * len(case.names): [0]}
    times, parts = np.empty((case.steps, case.timed_layers)), list[Floats | None]()
    costs, one_split = 0.0, True
    for ratios, layers in alike.items():
        sizes = tuple(n * size for n, size in zip(ratios, case.item_sizes, strict=True))
        part = replace(case, item_sizes=sizes)
        which = slice(None) if len(alike) == 1 else layers
        read, extra, written = (load[:, which].reshape(-1, len(case.names)) for load in loads)
        if case.objective.of_time:
            found = slot_times(part, read, extra, written)
            parts.append(busy_times(part, read, extra, written, found))
            costs += float(case.objective.second) * float(found.sum())
        else:
            cost, found, load, one = slot_costs(part, read, extra, written)
            parts.append(load / case.bandwidth if one else None)
            costs, one_split = costs + float(cost.sum()), one_split and one
        times[:, which] = found.reshape(case.steps, -1)
    busy = [part for part in parts if part is not None]
    total = None if case.objective.time_alone else costs
    return times, np.sum(busy, axis=0) if len(busy) == len(parts) else None, total, one_split


def _start(case: Case, initial: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the units that each tier holds before the first slot, (tiers,)."""
    held = np.zeros_like(case.unit_counts)
    for layer, life in enumerate(case.lives):
        head = life.head[: life.prompt][life.held[: life.prompt]]
        counts = np.zeros(len(case.names), np.int64)
        np.add.at(counts, initial[layer, head], life.blocks_in(life.block[head]))
        held[layer] = counts
        if case.rules["copies"] == "inclusive":
            held[layer, -1] = int(life.held_blocks[0])
    return (held * case.unit_counts).sum(axis=0)


def _check_capacity(
    case: Case, initial: NDArray[np.uint8], held: Ints, problems: list[str]
) -> tuple[int, ...]:
    """Verify every tier's capacity at the start and after every slot; return the peaks in bytes."""
    tiers, sizes = len(case.names), [case.granularity * size for size in case.item_sizes]
    changes = (held * case.unit_counts).reshape(-1, tiers)
    blocks = np.cumsum(np.vstack([_start(case, initial), changes]), axis=0)
    weights = [case.weight_bytes] + [0] * (tiers - 1)
    limits = zip(case.names, case.room, case.capacity, strict=True)
    for tier, (name, most, limit) in enumerate(limits):
        if most is None or limit is None:
            continue

        def describe(k: int, tier: int = tier, name: str = name, limit: int = limit) -> str:
            when = f"after {slot_name(case, k - 1)}" if k else "at the start"
            filled = int(blocks[k, tier]) * sizes[tier] + weights[tier]
            return f"{when}: tier {name} holds {filled} bytes, {filled - limit} over its capacity"

        note(problems, blocks[:, tier] > most, describe)
    peaks = blocks.max(axis=0).tolist()
    return tuple(size * peak + fixed for size, peak, fixed in zip(sizes, peaks, weights, strict=True))
