"""Replay a physical schedule, check every rule of the placement problem and cost it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker._inputs import Case, Rows, Source, array, load, read_case, tie
from kvbound.checker._report import Floats, Ints, Refused, Report, compare, note
from kvbound.checker._slots import MOST_TIERS, busy_times, slot_times

SCHEMA = "kvbound.schedule/1"


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
        problems = tie(arrays, case, SCHEMA, "physical")
        initial, events = _take_apart(case, arrays)
    except Refused as refusal:
        return Report(SCHEMA, (*problems, *map(str, refusal.args)), sha256)
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
    """What one layer's slots do, in tokens (`held` in blocks), each ``(steps, tiers)``."""

    read: Ints
    extra: Ints
    written: Ints
    held: Ints  # change of the blocks in each tier
    moved: tuple[int, int]  # up, down


def _take_apart(case: Case, arrays: Mapping[str, Any]) -> tuple[NDArray[np.uint8], list[_Events]]:
    """Return the initial tiers and each layer's events; refuse what cannot be replayed at all."""
    initial = array(arrays, "initial", "uint8", case.layers, case.prefill)
    slot, item = (array(arrays, name, "int64", -1) for name in ("slot", "item"))
    tier = array(arrays, "tier", "uint8", -1).astype(np.int64)
    if not slot.size == item.size == tier.size:
        raise Refused("slot, item and tier differ in length")
    (step, layer), (owner, token) = np.divmod(slot, case.layers), np.divmod(item, case.tokens)
    birth = token == case.prefill + step
    items = case.tokens * case.layers
    turn = 2 * slot + birth
    unsorted = np.diff(turn, prepend=turn[:1]) < 0
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
        problems, np.diff(pairs) == 0, lambda k: f"{_place(case, pairs[k] // items)}: an item has two events"
    )
    unborn = np.setdiff1d(np.arange(case.steps * case.layers), slot[birth])
    note(problems, unborn >= 0, lambda k: f"{_place(case, unborn[k])}: no birth of its token")
    if problems:
        raise Refused(*problems)
    parts = [np.flatnonzero(layer == number) for number in range(case.layers)]
    return initial, [_Events(step[part], token[part], tier[part]) for part in parts]


def _place(case: Case, slot: int) -> str:
    return f"slot {slot} (step {slot // case.layers}, layer {slot % case.layers})"


def prefill_first(case: Case) -> Ints:
    """Tier of each prompt token, (layers, prompt): token by token, layer by layer, fastest tier first."""
    weights = np.array([case.weight_bytes] + [0.0] * (len(case.names) - 2))
    room = np.floor((case.capacity[:-1] - weights) / (case.granularity * case.item_bytes))
    rank = np.arange(case.prefill) // case.granularity * case.layers + np.arange(case.layers)[:, None]
    return np.searchsorted(np.cumsum(np.maximum(room, 0)), rank, side="right")


def check_initial(case: Case, initial: NDArray[np.uint8], problems: list[str]) -> None:
    """Verify the fill that prefill-first forces."""
    if case.rules["initial"] != "prefill-first":
        return
    forced = prefill_first(case)

    def tell(k: int) -> str:
        layer, token = divmod(k, case.prefill)
        wanted, found = case.names[forced[layer, token]], case.names[initial[layer, token]]
        return (
            f"layer {layer}: prefill-first puts prompt token {token} into {wanted}, the schedule into {found}"
        )

    note(problems, (initial != forced).ravel(), tell)


def _replay(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    events: _Events,
    problems: list[str],
) -> Layer:
    """Replay one layer: who moves from where, at what price, and from where the reads are served."""
    tiers, size, nowhere = len(case.names), case.granularity, len(case.names)
    block, born = events.token // size, case.prefill + events.step
    birth, founding = events.token == born, (events.token == born) & (events.token % size == 0)
    before = _tiers_before(case, initial, block, events.tier)
    move = ~birth & (events.tier != before)

    members = block[:, None] * size + np.arange(size)
    there = members < born[:, None]  # born before this slot: only these travel
    safe = np.minimum(members, case.tokens - 1)
    used = there & (rows[events.step[:, None], safe >> 3] >> (safe & 7) & 1).astype(bool)
    count, unread = there.sum(axis=1), (there & ~used).sum(axis=1)
    up = move & (events.tier < before)

    def tell(what: str, k: int) -> str:
        return f"{_place(case, events.step[k] * case.layers + layer)}: token {events.token[k]} {what}"

    strays = birth & ~founding & (events.tier != before)
    note(problems, strays, lambda k: tell("is born into another tier than its block's", k))
    if case.rules["migration"] == "none":
        note(problems, move, lambda k: tell("moves, but the rules allow no migration", k))
    if case.rules["migration"] == "on-read":
        note(problems, up & (unread == count), lambda k: tell("goes up without being read (on-read)", k))

    inclusive, last = case.rules["copies"] == "inclusive", tiers - 1
    paid = move & ~(inclusive & (events.tier == last))  # the last tier has its copy already

    def tally(*parts: tuple[NDArray[np.bool_], Ints, Ints]) -> Ints:
        table = np.zeros((case.steps, tiers), dtype=np.int64)
        for mask, tier, amount in parts:
            np.add.at(table, (events.step[mask], tier[mask]), amount[mask])
        return table

    one, bottom = np.ones_like(count), np.full_like(count, last)
    through = birth & inclusive & (events.tier != last)
    extra = tally((paid, before, unread))
    written = tally((paid, events.tier, count), (birth, events.tier, one), (through, bottom, one))
    held = tally((founding | move, events.tier, one), (move, before, -one))
    if inclusive:
        held[:, last] = tally((founding, bottom, one))[:, last]

    travel = np.where(birth[:, None], members == events.token[:, None], there & move[:, None])
    event, _ = np.nonzero(travel)
    old = np.where(birth, nowhere, before)[event]
    travels = (events.step[event], members[travel], old, events.tier[event])
    read = _serve(case, layer, rows, initial, travels, problems)
    return Layer(read, extra, written, held, (int(count[paid & up].sum()), int(count[paid & ~up].sum())))


def _tiers_before(case: Case, initial: NDArray[np.uint8], block: Ints, tier: Ints) -> Ints:
    """Return the tier of each event's block before it; births of a block have no meaning there."""
    start = np.zeros(-(-case.tokens // case.granularity), dtype=np.int64)
    heads = initial[:: case.granularity]
    start[: heads.size] = heads
    order = np.argsort(block, kind="stable")
    earlier = np.concatenate([tier[:1], tier[order][:-1]])
    opening = np.concatenate([np.ones(min(1, block.size), bool), np.diff(block[order]) != 0])
    before = np.empty_like(tier)
    before[order] = np.where(opening, start[block[order]], earlier)
    return before


def _serve(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    travels: tuple[Ints, Ints, Ints, Ints],
    problems: list[str],
) -> Ints:
    """Return ``(steps, tiers)`` tokens read in each tier, where they are when the slot begins.

    `travels` are steps, tokens, old and new tiers, sorted by step; births come from the tier after the last.
    """
    step, token, old, new = travels
    tiers, width = len(case.names), rows.shape[1]
    masks = np.zeros((tiers + 1, width), dtype=np.uint8)  # the last one takes what is not born yet
    prompt = initial == np.arange(tiers)[:, None]
    masks[:tiers, : -(-case.prefill // 8)] = np.packbits(prompt, axis=1, bitorder="little")
    flips = np.column_stack([old * width + (token >> 3), new * width + (token >> 3)]).ravel()
    bits = np.repeat(1 << (token & 7), 2).astype(np.uint8)
    ends = 2 * np.searchsorted(step, np.arange(case.steps + 1))
    words, wide = np.ascontiguousarray(rows).view(np.uint64), masks[:tiers].view(np.uint64)
    read, listed = np.empty((case.steps, tiers), dtype=np.int64), np.empty(case.steps, dtype=np.int64)
    for now in range(case.steps):
        np.bitwise_count(words[now] & wide).sum(axis=1, out=read[now])
        listed[now] = np.bitwise_count(words[now]).sum()
        part = slice(ends[now], ends[now + 1])
        np.bitwise_xor.at(masks.reshape(-1), flips[part], bits[part])
    born = case.prefill + np.arange(case.steps)
    own = rows[np.arange(case.steps), born >> 3] >> (born & 7) & 1  # still on the chip: no read
    future = read.sum(axis=1) + own != listed

    def tell(k: int) -> str:
        return f"{_place(case, k * case.layers + layer)}: the trace reads a token that is not born yet"

    note(problems, future, tell)
    return read


def conclude(
    schema: str, case: Case, initial: NDArray[np.uint8], layers: list[Layer], claimed_s: float | None,
    problems: list[str],
) -> Report:  # fmt: skip
    """Check capacity and the claim, and add up what the layers' slots do."""
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


def _check_capacity(case: Case, initial: NDArray[np.uint8], held: Ints, problems: list[str]) -> Floats:
    """Verify every tier's capacity at the start and after every slot; return the peaks in bytes."""
    tiers = len(case.names)
    start = np.bincount(initial[:, :: case.granularity].ravel(), minlength=tiers)
    if case.rules["copies"] == "inclusive":
        start[-1] = start.sum()
    blocks = np.cumsum(np.vstack([start, held.reshape(-1, tiers)]), axis=0)
    filled = blocks * float(case.granularity * case.item_bytes)
    filled[:, 0] += case.weight_bytes
    for tier, name in enumerate(case.names):
        limit = case.capacity[tier]

        def tell(k: int, tier: int = tier, name: str = name, limit: float = limit) -> str:
            when = f"after {_place(case, k - 1)}" if k else "at the start"
            over = filled[k, tier] - limit
            return f"{when}: tier {name} holds {filled[k, tier]:.0f} bytes, {over:.0f} over its capacity"

        note(problems, filled[:, tier] > limit, tell)
    return np.asarray(filled.max(axis=0))
