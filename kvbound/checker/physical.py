"""Replay a physical schedule, check every rule of the placement problem, and recompute its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case, Rows, Source, array, check_identity, load, read_case
from kvbound.checker.report import Ints, Refused, Report, compare, note
from kvbound.checker.slots import MOST_TIERS, busy_times, slot_times

SCHEMA = "kvbound.schedule/1"
_STEPS = 64
"""Steps whose moves are expanded to bits at once."""


def check_schedule(
    expanded: Mapping[str, Any], rows: Rows, schedule: Source, *, claimed_s: float | None = None
) -> Report:
    """Check a schedule of an instance with ``physical`` accounting.

    Parameters
    ----------
    expanded
        The expanded instance.
    rows
        Per layer the packed read sets, uint8 ``(steps, 8 * ceil(tokens / 64))``, lowest bit first.
    schedule
        The npz file or its arrays.
    claimed_s
        A claimed decode time in seconds, compared to 1e-9 relative.
    """
    sha256, problems = None, list[str]()
    try:
        case = read_case(expanded, rows)
        sha256 = case.sha256
        if len(case.names) > MOST_TIERS:
            raise Refused(f"{len(case.names)} tiers are more than the {MOST_TIERS} this checker can cost")
        arrays = load(schedule)
        problems = check_identity(arrays, case, SCHEMA, "physical")
        initial, events = _read_events(case, arrays)
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    check_initial(case, initial, problems)
    layers = [
        _replay(case, number, rows[number], initial[number], events[number], problems)
        for number in range(case.layers)
    ]
    return conclude(SCHEMA, case, initial, layers, claimed_s, problems)


@dataclass(frozen=True)
class _Events:
    """One layer's events in the file's order."""

    step: Ints
    token: Ints
    tier: Ints


@dataclass(frozen=True)
class Layer:
    """Counts of one layer's slots, in tokens (`held` in blocks), each ``(steps, tiers)``.

    `read`, `extra` and `written` are those of `kvbound.checker.slots.slot_times`.
    """

    read: Ints
    extra: Ints
    written: Ints
    held: Ints  # change of the number of blocks in each tier
    moved: tuple[int, int]  # up, down


def _read_events(case: Case, arrays: Mapping[str, Any]) -> tuple[NDArray[np.uint8], list[_Events]]:
    """Return the initial tiers and each layer's events; refuse what cannot be replayed."""
    initial = array(arrays, "initial", "uint8", case.layers, case.prefill)
    most = case.steps * case.layers * case.tokens  # no item has two events in a slot
    slot, item = (array(arrays, name, "int64", -1, most=most) for name in ("slot", "item"))
    tier = array(arrays, "tier", "uint8", -1, most=most).astype(np.int64)
    if not slot.size == item.size == tier.size:
        raise Refused("slot, item and tier differ in length")
    (step, layer), (owner, token) = np.divmod(slot, case.layers), np.divmod(item, case.tokens)
    birth = token == case.prefill + step
    items = case.tokens * case.layers
    order = 2 * slot + birth
    unsorted = np.diff(order, prepend=order[:1]) < 0
    pairs = np.sort(slot * items + item)
    first = np.arange(case.prefill) // case.granularity * case.granularity
    problems: list[str] = []
    note(problems, initial.ravel() >= len(case.names), lambda _: "initial names a tier that does not exist")
    note(problems, (initial != initial[:, first]).ravel(), lambda _: "initial differs within a block")
    for what, bad in {
        "its slot is outside the trace": (slot < 0) | (slot >= case.steps * case.layers),
        "its item is outside the trace": (item < 0) | (item >= items),
        "its tier does not exist": tier >= len(case.names),
        "events must be sorted by slot, moves before the birth": unsorted,
        "an item can change only in a slot of its own layer": owner != layer,
        "the item is moved before its birth": token > case.prefill + step,
        "a move must name the first token of its block": ~birth & (token % case.granularity > 0),
    }.items():
        note(problems, bad, lambda k, what=what: f"event {k}: {what}")  # type: ignore[misc]
    note(
        problems,
        np.diff(pairs) == 0,
        lambda k: f"{_slot(case, pairs[k] // items)}: an item has two events",
    )
    unborn = np.setdiff1d(np.arange(case.steps * case.layers), slot[birth])
    note(problems, unborn >= 0, lambda k: f"{_slot(case, unborn[k])}: no birth of its token")
    if problems:
        raise Refused(*problems)
    parts = [np.flatnonzero(layer == number) for number in range(case.layers)]
    return initial, [_Events(step[part], token[part], tier[part]) for part in parts]


def _slot(case: Case, slot: int) -> str:
    return f"slot {slot} (step {slot // case.layers}, layer {slot % case.layers})"


def prefill_first(case: Case) -> Ints:
    """Return the tier of each prompt token under prefill-first, (layers, prompt).

    Blocks fill the fastest tier first, ordered by their tokens and, within the same tokens, by layer.
    """
    most = case.layers * case.tokens  # at least the number of blocks
    limits = [most if free is None else min(max(free, 0), most) for free in case.capacity_blocks[:-1]]
    rank = np.arange(case.prefill) // case.granularity * case.layers + np.arange(case.layers)[:, None]
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


def _replay(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    events: _Events,
    problems: list[str],
) -> Layer:
    """Replay one layer: check its events, and count what they move and which tiers hold what is read."""
    tiers, size, nowhere = len(case.names), case.granularity, len(case.names)
    block, born = events.token // size, case.prefill + events.step
    birth, founding = events.token == born, (events.token == born) & (events.token % size == 0)
    before = _tiers_before(case, initial, block, events.tier)
    move = ~birth & (events.tier != before)

    # tokens first..end-1 of each event: those of the block born before this slot, or the new token
    first = np.where(birth, events.token, block * size)
    end = np.where(birth, events.token + 1, np.minimum(block * size + size, born))
    count, unread = end - first, np.zeros_like(block)
    unread[move] = count[move] - _reads_within(rows, events.step[move], first[move], end[move])
    up = move & (events.tier < before)

    def describe(what: str, k: int) -> str:
        return f"{_slot(case, events.step[k] * case.layers + layer)}: token {events.token[k]} {what}"

    strays = birth & ~founding & (events.tier != before)
    note(problems, strays, lambda k: describe("is born into another tier than its block's", k))
    if case.rules["migration"] == "none":
        note(problems, move, lambda k: describe("moves, but the rules allow no migration", k))
    if case.rules["migration"] == "on-read":
        note(problems, up & (unread == count), lambda k: describe("goes up without being read (on-read)", k))

    inclusive, last = case.rules["copies"] == "inclusive", tiers - 1
    charged = move & ~(inclusive & (events.tier == last))  # the last tier already has a copy

    def tally(*parts: tuple[NDArray[np.bool_], Ints, Ints]) -> Ints:
        table = np.zeros((case.steps, tiers), dtype=np.int64)
        for mask, tier, amount in parts:
            np.add.at(table, (events.step[mask], tier[mask]), amount[mask])
        return table

    one, to_last = np.ones_like(count), np.full_like(count, last)
    through = birth & inclusive & (events.tier != last)
    extra = tally((charged, before, unread))
    written = tally((charged, events.tier, count), (birth, events.tier, one), (through, to_last, one))
    held = tally((founding | move, events.tier, one), (move, before, -one))
    if inclusive:
        held[:, last] = tally((founding, to_last, one))[:, last]

    old, travels = np.where(birth, nowhere, before), np.flatnonzero(birth | move)
    flips = _Flips(events.step, first, end, old, events.tier).take(travels)
    read = _serve(case, layer, rows, initial, flips, problems)
    return Layer(
        read, extra, written, held, (int(count[charged & up].sum()), int(count[charged & ~up].sum()))
    )


def _tiers_before(case: Case, initial: NDArray[np.uint8], block: Ints, tier: Ints) -> Ints:
    """Return the tier of each event's block before the event; undefined where the event creates the block."""
    start = np.zeros(-(-case.tokens // case.granularity), dtype=np.int64)
    heads = initial[:: case.granularity]
    start[: heads.size] = heads
    order = np.argsort(block, kind="stable")
    earlier = np.concatenate([tier[:1], tier[order][:-1]])
    opening = np.concatenate([np.ones(min(1, block.size), bool), np.diff(block[order]) != 0])
    before = np.empty_like(tier)
    before[order] = np.where(opening, start[block[order]], earlier)
    return before


def _reads_within(rows: NDArray[np.uint8], step: Ints, first: Ints, end: Ints) -> Ints:
    """Return how many of tokens first..end-1 each event's step reads; events are sorted by step."""
    if np.all(end - first == 1):
        return (rows[step, first >> 3] >> (first & 7) & 1).astype(np.int64)
    reads = np.zeros_like(step)
    starts = np.flatnonzero(np.diff(step, prepend=-1))
    for part in map(slice, starts, [*starts[1:], step.size]):
        row = np.append(rows[step[part.start]], np.uint8(0))
        before = np.cumsum(np.bitwise_count(row), dtype=np.int64) - np.bitwise_count(row)

        def below(token: Ints, row: NDArray[np.uint8] = row, before: Ints = before) -> Ints:
            byte = token >> 3
            return before[byte] + np.bitwise_count(row[byte] & (1 << (token & 7)) - 1)

        reads[part] = below(end[part]) - below(first[part])
    return reads


@dataclass(frozen=True)
class _Flips:
    """Ranges of tokens first..end-1 that change from tier `old` to tier `new`, sorted by step."""

    step: Ints
    first: Ints
    end: Ints
    old: Ints
    new: Ints

    def take(self, which: Ints | slice) -> _Flips:
        """Return a selection."""
        return _Flips(*(each[which] for each in (self.step, self.first, self.end, self.old, self.new)))

    def masks(self, width: int) -> tuple[Ints, NDArray[np.uint8], Ints]:
        """Return what to XOR into masks (tiers, width): flat byte indices, bytes, and their steps, ascending.

        A block of many tokens takes one entry for each eight of them.
        """
        low, high = self.first >> 3, self.end - 1 >> 3
        count = high - low + 1
        n = np.repeat(np.arange(count.size), count)
        byte = np.arange(n.size) + (low - np.cumsum(count) + count)[n]
        bits = np.where(byte == low[n], 255 << (self.first[n] & 7), 255)
        bits &= np.where(byte == high[n], 255 >> (7 - (self.end[n] - 1 & 7)), 255)
        places = np.column_stack([self.old[n] * width + byte, self.new[n] * width + byte]).ravel()
        return places, np.repeat(bits.astype(np.uint8), 2), np.repeat(self.step[n], 2)


def _serve(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    flips: _Flips,
    problems: list[str],
) -> Ints:
    """Return ``(steps, tiers)``: the tokens read by the tier that holds them when the slot begins.

    Births flip from the index after the last tier.
    """
    tiers, width = len(case.names), rows.shape[1]
    masks = np.zeros((tiers + 1, width), dtype=np.uint8)  # the last mask takes the flips of births
    prompt = initial == np.arange(tiers)[:, None]
    masks[:tiers, : -(-case.prefill // 8)] = np.packbits(prompt, axis=1, bitorder="little")
    words, wide = np.ascontiguousarray(rows).view(np.uint64), masks[:tiers].view(np.uint64)
    read, listed = np.empty((case.steps, tiers), dtype=np.int64), np.empty(case.steps, dtype=np.int64)
    for first in range(0, case.steps, _STEPS):
        steps = np.arange(first, min(first + _STEPS, case.steps) + 1)
        places, bits, when = flips.take(slice(*np.searchsorted(flips.step, steps[[0, -1]]))).masks(width)
        ends = np.searchsorted(when, steps)
        for now, start, end in zip(steps[:-1], ends[:-1], ends[1:], strict=True):
            np.bitwise_count(words[now] & wide).sum(axis=1, out=read[now])
            listed[now] = np.bitwise_count(words[now]).sum()
            np.bitwise_xor.at(masks.reshape(-1), places[start:end], bits[start:end])
    born = case.prefill + np.arange(case.steps)
    own = rows[np.arange(case.steps), born >> 3] >> (born & 7) & 1  # still on the chip, so not a read
    future = read.sum(axis=1) + own != listed

    def describe(k: int) -> str:
        return f"{_slot(case, k * case.layers + layer)}: the trace reads a token that is not born yet"

    note(problems, future, describe)
    return read


def conclude(
    schema: str, case: Case, initial: NDArray[np.uint8], layers: list[Layer], claimed_s: float | None,
    problems: list[str],
) -> Report:  # fmt: skip
    """Check capacities and the claimed time, and return the report on all layers."""
    peaks = _check_capacity(case, initial, np.stack([layer.held for layer in layers], axis=1), problems)
    read, extra, written = (
        np.stack([getattr(layer, kind) for layer in layers], axis=1) * float(case.item_bytes)
        for kind in ("read", "extra", "written")
    )  # (steps, layers, tiers) each
    extra[:, :, 0] += case.weight_reads
    read, extra, written = (part.reshape(-1, len(case.names)) for part in (read, extra, written))
    times = slot_times(case, read, extra, written)
    busy = busy_times(case, read, extra, written, times)
    steps = times.reshape(case.steps, case.layers).sum(axis=1)
    time_s = float(steps.sum())
    compare(problems, claimed_s, time_s)
    up, down = case.item_bytes * np.sum([layer.moved for layer in layers], axis=0, dtype=float)
    moved = {"up": float(up), "down": float(down)}
    return Report(
        schema, tuple(problems), case.sha256, time_s, steps, read.sum(axis=0), peaks, moved,
        busy=None if busy is None else busy / (time_s or 1.0),
    )  # fmt: skip


def _check_capacity(
    case: Case, initial: NDArray[np.uint8], held: Ints, problems: list[str]
) -> tuple[int, ...]:
    """Verify every tier's capacity at the start and after every slot; return the peaks in bytes."""
    tiers, size = len(case.names), case.granularity * case.item_bytes
    start = np.bincount(initial[:, :: case.granularity].ravel(), minlength=tiers)
    if case.rules["copies"] == "inclusive":
        start[-1] = start.sum()
    blocks = np.cumsum(np.vstack([start, held.reshape(-1, tiers)]), axis=0)
    weights = [case.weight_bytes] + [0] * (tiers - 1)
    limits = zip(case.names, case.capacity_blocks, case.capacity, strict=True)
    for tier, (name, most, limit) in enumerate(limits):
        if most is None or limit is None:
            continue

        def describe(k: int, tier: int = tier, name: str = name, limit: int = limit) -> str:
            when = f"after {_slot(case, k - 1)}" if k else "at the start"
            filled = int(blocks[k, tier]) * size + weights[tier]
            return f"{when}: tier {name} holds {filled} bytes, {filled - limit} over its capacity"

        note(problems, blocks[:, tier] > most, describe)
    peaks = blocks.max(axis=0).tolist()
    return tuple(size * peak + fixed for peak, fixed in zip(peaks, weights, strict=True))
