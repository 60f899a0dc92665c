"""Replay a physical schedule, check every rule of the placement problem, and recompute its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker import dense
from kvbound.checker.arrays import Source, load
from kvbound.checker.conclusion import Layer, check_initial, conclude
from kvbound.checker.events import Events, read_events
from kvbound.checker.inputs import Case, Rows, check_identity, read_case, slot_name
from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.report import Ints, Refused, Report, note
from kvbound.checker.slots import MOST_TIERS

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
        initial, events = read_events(case, arrays)
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    check_initial(case, initial, problems)
    layers = [
        _replay(case, number, initial[number], events[number], problems) for number in range(case.layers)
    ]
    return conclude(SCHEMA, case, initial, layers, claimed_s, problems)


def _replay(
    case: Case,
    layer: int,
    initial: NDArray[np.uint8],
    events: Events,
    problems: list[str],
) -> Layer:
    """Replay one layer: check its events, and count what they move and which tiers hold what is read."""
    tiers, life = len(case.names), case.lives[layer]
    rows = None if case.dense else case.rows(layer)
    block, birth = life.block[events.token], life.born[events.token] == events.step
    head = events.token == life.head[block]
    before, final = _tiers_of_blocks(life, initial, block, events.tier)
    move = ~birth & (events.tier != before)
    count, unread, read = _loads(life, rows, events, move)
    up = move & (events.tier < before)

    def describe(what: str, k: int) -> str:
        slot, token = events.step[k] * case.layers + layer, int(events.token[k])
        return f"{slot_name(case, slot)}: {case.named(token)} {what}"

    strays = birth & ~head & (events.tier != before)
    note(problems, strays, lambda k: describe("is born into another tier than its block's", k))
    if case.rules["migration"] == "none":
        note(problems, move, lambda k: describe("moves, but the rules allow no migration", k))
    if case.rules["migration"] == "on-read":
        note(problems, up & (read == 0), lambda k: describe("goes up without being read (on-read)", k))

    inclusive, last = case.rules["copies"] == "inclusive", tiers - 1
    charged = move & ~(inclusive & (events.tier == last))  # the last tier already has a copy

    def tally(*parts: tuple[Ints, Ints, Ints | int]) -> Ints:
        table = np.zeros((case.steps, tiers), dtype=np.int64)
        for step, tier, amount in parts:
            np.add.at(table, (step, tier), amount)
        return table

    through, founding = birth & inclusive & (events.tier != last), birth & head & life.held[block]
    extra = tally((events.step[charged], before[charged], unread[charged]))
    born = tally(
        (events.step[birth], events.tier[birth], 1),
        (events.step[through], np.full(np.count_nonzero(through), last), 1),
    )
    written = born + tally((events.step[charged], events.tier[charged], count[charged]))
    leaving, moved = np.flatnonzero(life.held & (life.last < case.steps)), life.blocks_in(block[move])
    held = tally(
        (events.step[founding], events.tier[founding], 1),
        (events.step[move], events.tier[move], moved),
        (events.step[move], before[move], -moved),
        (life.last[leaving], final[leaving], -1),
    )
    if inclusive:
        held[:, last] = np.diff(life.held_blocks)

    flips = _flips(life, tiers, events, before, birth, move)
    placed, more = np.zeros(tiers, np.int64), np.zeros((), np.int64)
    if life.chunks.size:
        by_tier = _chunks_read(life, rows, initial, events, before, move, tiers)
        placed = np.array([each.sum(axis=0) @ (life.size * life.chunks) for each in by_tier])
        more = np.stack([each @ life.more for each in by_tier], axis=1)
    if rows is None:
        served = dense.served(life, tiers, initial, flips.by_token(tiers))
    else:
        served = _serve(case, layer, rows, initial, flips, problems) + more
    written_bytes = np.array(case.sizes(layer), float)[events.tier] * count
    moved_bytes = written_bytes[charged & up].sum(), written_bytes[charged & ~up].sum()
    return Layer(served, extra, written, held, moved_bytes, born.sum(axis=0), placed)


def _chunks_read(
    life: Lifetimes,
    rows: NDArray[np.uint8] | None,
    initial: NDArray[np.uint8],
    events: Events,
    before: Ints,
    move: NDArray[np.bool_],
    tiers: int,
) -> list[NDArray[np.bool_]]:
    """Return which chunks of weights each step reads, ``(steps, ids)``, for each tier that holds them then.

    The masks of `_serve` have one bit for each chunk, which may be many items.
    """
    chunk = np.flatnonzero(move & (events.token < life.chunks.size))
    tier = np.zeros((len(life.outputs) + 1, life.chunks.size), np.int8)  # changes, and then their sum
    tier[0] = initial[: life.chunks.size]
    change = (events.tier[chunk] - before[chunk]).astype(np.int8)
    np.add.at(tier, (events.step[chunk] + 1, events.token[chunk]), change)
    np.cumsum(tier, axis=0, dtype=np.int8, out=tier)
    read = life.chunks > 0 if rows is None else life.chunk_reads(rows).astype(np.bool_)
    return [read & (tier[:-1] == k) for k in range(tiers)]


def _tiers_of_blocks(
    life: Lifetimes, initial: NDArray[np.uint8], block: Ints, tier: Ints
) -> tuple[Ints, Ints]:
    """Return the tier of each event's block before the event, and of each block in the end.

    The former is undefined where the event creates the block.
    """
    end = np.zeros(len(life.head), dtype=np.int64)
    end[: life.prompt] = initial[life.head[: life.prompt]]
    order = np.argsort(block, kind="stable")
    earlier = np.concatenate([tier[:1], tier[order][:-1]])
    opening = np.concatenate([np.ones(min(1, block.size), bool), np.diff(block[order]) != 0])
    before = np.empty_like(tier)
    before[order] = np.where(opening, end[block[order]], earlier)
    closing = order[np.roll(opening, -1)]
    end[block[closing]] = tier[closing]
    return before, end


def _loads(
    life: Lifetimes, rows: NDArray[np.uint8] | None, events: Events, move: NDArray[np.bool_]
) -> tuple[Ints, Ints, Ints]:
    """Return what each event that is a move carries, and 0 for the others.

    Parameters
    ----------
    rows
        The packed reads, or None if every slot reads all past items that exist.

    Returns
    -------
    The items carried, those among them that the slot does not read, and the past items of the block that the
    slot reads.
    """
    which = np.flatnonzero(move)
    step, token = events.step[which], events.token[which]
    count, unread, read = np.zeros((3, move.size), dtype=np.int64)
    if rows is None:
        block = life.block[token]
        count[which], read[which] = life.carried(block, step), life.carried(block, step, ending=1)
        return count, unread, read
    if life.size == 1:
        count[which] = items = life.items_in(token)
        read[which] = (rows[step, token >> 3] >> (token & 7) & 1) * items
        return count, count - read, read
    block = life.block[token]
    count[which] = unread[which] = life.carried(block, step)
    starts = np.flatnonzero(np.diff(step, prepend=-1))
    for part in map(slice, starts, [*starts[1:], step.size]):
        found, lasting = life.read_blocks(rows[step[part.start]], int(step[part.start]))
        read[which[part]] = found[block[part]]
        unread[which[part]] -= lasting[block[part]]
    return count, unread, read


@dataclass(frozen=True)
class _Flips:
    """Ranges of tokens first..end-1 that change from mask `old` to mask `new`, sorted by step."""

    step: Ints
    first: Ints
    end: Ints
    old: Ints
    new: Ints

    def take(self, which: Ints | slice) -> _Flips:
        """Return a selection."""
        return _Flips(*(each[which] for each in (self.step, self.first, self.end, self.old, self.new)))

    def by_token(self, tiers: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Return step, token, tier before and tier after of all changes but ends, `tiers` for no tier."""
        some = self.take(np.flatnonzero(self.new < tiers))
        count = some.end - some.first
        n = np.repeat(np.arange(count.size), count)
        token = np.arange(n.size) + (some.first - np.cumsum(count) + count)[n]
        return some.step[n], token, np.minimum(some.old, tiers)[n], some.new[n]

    def masks(self, width: int) -> tuple[Ints, NDArray[np.uint8], Ints]:
        """Return what to XOR into masks (masks, width): flat byte indices, bytes, and their steps, ascending.

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


def _flips(
    life: Lifetimes,
    tiers: int,
    events: Events,
    before: Ints,
    birth: NDArray[np.bool_],
    move: NDArray[np.bool_],
) -> _Flips:
    """Return the changes of `_serve`'s masks: by births, moves and the ends of tokens.

    A move also flips the bits of tokens of its block that have ended, which is harmless: nothing reads these.
    """
    ended, nowhere, steps = tiers, tiers + 1, len(life.outputs)
    first, end, owner = life.runs
    by_block = np.argsort(owner, kind="stable")
    start = np.searchsorted(owner[by_block], np.arange(len(life.head) + 1))
    block = life.block[events.token[move]]
    runs = start[block + 1] - start[block]
    which = np.repeat(np.flatnonzero(move), runs)
    run = by_block[np.arange(which.size) + np.repeat(start[block] - np.cumsum(runs) + runs, runs)]
    moving = events.step[which], first[run], np.minimum(end[run], life.past[events.step[which]])
    present = np.flatnonzero(moving[2] > moving[1])
    leaving = np.flatnonzero(life.end < steps)

    def all_of(births: Ints, moves: Ints, ends: Ints) -> Ints:
        return np.concatenate([births, moves[present], ends])

    new, token = np.count_nonzero(birth), events.token[birth]
    flips = _Flips(
        all_of(events.step[birth], moving[0], life.end[leaving]),
        all_of(token, moving[1], leaving),
        all_of(token + 1, moving[2], leaving + 1),
        all_of(np.full(new, nowhere), before[which], np.full(leaving.size, nowhere)),
        all_of(events.tier[birth], events.tier[which], np.full(leaving.size, ended)),
    )
    return flips.take(np.argsort(flips.step, kind="stable"))


def _serve(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    flips: _Flips,
    problems: list[str],
) -> Ints:
    """Return ``(steps, tiers)``: the tokens read by the tier that holds them when the slot begins.

    There is a mask of tokens for each tier, one for those that have ended, and one, unused otherwise, that
    births flip from.
    """
    life, tiers, width = case.lives[layer], len(case.names), rows.shape[1]
    masks = np.zeros((tiers + 2, width), dtype=np.uint8)
    prompt = initial == np.arange(tiers)[:, None]
    masks[:tiers, : -(-case.prefill // 8)] = np.packbits(prompt, axis=1, bitorder="little")
    watched = tiers + bool(np.any(life.end < case.steps))
    words, wide = np.ascontiguousarray(rows).view(np.uint64), masks[:watched].view(np.uint64)
    read, listed = np.zeros((case.steps, tiers + 1), dtype=np.int64), np.empty(case.steps, dtype=np.int64)
    for first in range(0, case.steps, _STEPS):
        steps = np.arange(first, min(first + _STEPS, case.steps) + 1)
        places, bits, when = flips.take(slice(*np.searchsorted(flips.step, steps[[0, -1]]))).masks(width)
        ends = np.searchsorted(when, steps)
        for now, start, end in zip(steps[:-1], ends[:-1], ends[1:], strict=True):
            np.bitwise_count(words[now] & wide).sum(axis=1, out=read[now, :watched])
            listed[now] = np.bitwise_count(words[now]).sum()
            np.bitwise_xor.at(masks.reshape(-1), places[start:end], bits[start:end])
    read, ended = read[:, :tiers], read[:, tiers] > 0
    unborn = read.sum(axis=1) + case.life.own_reads(rows) != listed

    def describe(what: str, k: int) -> str:
        return f"{slot_name(case, k * case.layers + layer)}: the trace reads a token that {what}"

    note(problems, unborn, lambda k: describe("is not born yet", k))
    note(problems, ended, lambda k: describe("has ended", k))
    return read
