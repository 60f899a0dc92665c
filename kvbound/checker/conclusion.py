"""What every form of a physical schedule is checked for once it is replayed: start, capacities, times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case
from kvbound.checker.report import Ints, Report, compare, note
from kvbound.checker.slots import busy_times, slot_times


@dataclass(frozen=True)
class Layer:
    """Counts of one layer's slots, in tokens (`held` in blocks), each ``(steps, tiers)``.

    `read`, `extra` and `written` are those of `kvbound.checker.slots.slot_times`.
    """

    read: Ints
    extra: Ints
    written: Ints
    held: Ints  # change of the number of blocks in each tier
    moved: tuple[int, int]  # bytes written up, down


def slot_name(case: Case, slot: int) -> str:
    """Return a slot's number, step and layer, for messages."""
    return f"slot {slot} (step {slot // case.layers}, layer {slot % case.layers})"


def prefill_first(case: Case) -> Ints:
    """Return the tier of each prompt token under prefill-first, (layers, prompt).

    Blocks fill the fastest tier first, ordered by their tokens and, within the same tokens, by layer.
    """
    most = case.layers * case.tokens  # at least the number of blocks
    limits = [most if free is None else min(max(free, 0), most) for free in case.capacity_blocks[:-1]]
    rank = case.life.block[: case.prefill] * case.layers + np.arange(case.layers)[:, None]
    return np.searchsorted(np.cumsum(limits), rank, side="right")


def check_initial(case: Case, initial: NDArray[np.uint8], problems: list[str]) -> None:
    """Verify the initial fill where the rule `prefill-first` determines it."""
    if case.rules["initial"] != "prefill-first":
        return
    forced = prefill_first(case)

    def describe(k: int) -> str:
        layer, token = divmod(k, case.prefill)
        wanted, found = case.names[forced[layer, token]], case.names[initial[layer, token]]
        return (
            f"layer {layer}: prefill-first puts prompt token {token} into {wanted}, the schedule into {found}"
        )

    note(problems, (initial != forced).ravel(), describe)


def conclude(
    schema: str, case: Case, initial: NDArray[np.uint8], layers: list[Layer], claimed_s: float | None,
    problems: list[str],
) -> Report:  # fmt: skip
    """Check capacities and the claimed time, and return the report on all layers."""
    peaks = _check_capacity(case, initial, np.stack([layer.held for layer in layers], axis=1), problems)
    read, extra, written = (
        np.stack([getattr(layer, kind) for layer in layers], axis=1) * np.array(case.item_sizes, float)
        for kind in ("read", "extra", "written")
    )  # (steps, layers, tiers) each
    extra[:, :, 0] += case.weight_reads
    read, extra, written = (part.reshape(-1, len(case.names)) for part in (read, extra, written))
    times = slot_times(case, read, extra, written)
    busy = busy_times(case, read, extra, written, times)
    steps = times.reshape(case.steps, case.layers).sum(axis=1)
    time_s = float(steps.sum())
    compare(problems, claimed_s, time_s)
    up, down = np.sum([layer.moved for layer in layers], axis=0, dtype=float)
    moved = {"up": float(up), "down": float(down)}
    return Report(
        schema, tuple(problems), case.sha256, time_s, steps, read.sum(axis=0), peaks, moved,
        busy=None if busy is None else busy / (time_s or 1.0),
    )  # fmt: skip


def _check_capacity(
    case: Case, initial: NDArray[np.uint8], held: Ints, problems: list[str]
) -> tuple[int, ...]:
    """Verify every tier's capacity at the start and after every slot; return the peaks in bytes."""
    tiers, sizes = len(case.names), [case.granularity * size for size in case.item_sizes]
    start = np.bincount(initial[:, case.life.head[: case.life.prompt]].ravel(), minlength=tiers)
    if case.rules["copies"] == "inclusive":
        start[-1] = start.sum()
    blocks = np.cumsum(np.vstack([start, held.reshape(-1, tiers)]), axis=0)
    weights = [case.weight_bytes] + [0] * (tiers - 1)
    limits = zip(case.names, case.capacity_blocks, case.capacity, strict=True)
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
