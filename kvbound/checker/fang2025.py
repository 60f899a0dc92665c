"""Replay a fang2025 log: what entered and left tier 0 in each slot, costed by the published accounting.

File (npz, no pickle), ``schema`` "kvbound.schedule-fang2025/1", with ``instance_sha256`` and

===================================  ====================  ===============================================
``initial``                          int64 (items,)        resident before the first slot, each once
``add_slot``, ``add_item``           int64 (adds,)         resident from after that slot on
``remove_slot``, ``remove_item``     int64 (removes,)      no longer resident after that slot
``beta``                             uint8 (slots,)        1 if the rules placed the new token in tier 0
``promoted``                         int64 (slots,)        hMW in items: written to tier 0 by migration
``external``                         int64 (slots,)        eMR in items: read from tier 1 by migration
===================================  ====================  ===============================================

slot = step * layers + layer; item = token * layers + layer, *token-major*, as a page may reach past the
trace's last token (by up to 15). Slots ascend in each list; the order within a slot is irrelevant, and an
item occurs at most once per list and slot. The lists are net changes: an item in both lists of one slot ends
as it began. Only a new token that is placed and evicted again in its own slot needs this (it explains
beta = 1).

Hits, and with them alpha, are recomputed from what is resident when the slot begins; a page may have brought
in the new token before its birth, and then the token's own read is a hit (the authors' totals confirm both).
Also verified: residency is consistent; the pool never holds more than its M - 1 usable items; beta = 1 only
if the new token was resident before the slot or entered in it (beta = 0 is possible although a page brought
it in); every item that migration left in tier 0 was charged. The published rules also charge adds that fail,
and whole pages of which some items were resident, so that hMW may exceed the net adds but never falls below
them. Only page moves read externally, and hMW charges each of these too, so that 0 <= eMR <= hMW. Nothing
further can be verified without the policy. ``best`` has no log: its alpha is bounded by capacity, and no hits
are replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.arrays import Source, array, load
from kvbound.checker.inputs import Case, Rows, check_identity, read_case
from kvbound.checker.report import Floats, Ints, Refused, Report, compare, note

SCHEMA = "kvbound.schedule-fang2025/1"
PAST_END = 15  # tokens a page may reach past the last one


def check_fang2025(
    expanded: Mapping[str, Any], rows: Rows, schedule: Source, *, claimed_s: float | None = None
) -> Report:
    """Check a log of an instance with ``fang2025`` accounting; parameters as for `check_schedule`."""
    sha256, problems = None, list[str]()
    try:
        case = read_case(expanded, rows)
        sha256 = case.sha256
        rates = _rates(case)
        arrays = load(schedule)
        problems = check_identity(arrays, case, SCHEMA, "fang2025")
        log = _read_log(case, arrays)
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    held = _check_pool(case, log, problems)
    hits, reads, before = _replay(case, case.trace, log, problems)
    _check_charges(case, log, before, problems)

    size = float(case.item_sizes[0])
    weights = np.tile(case.weight_reads, case.steps)
    alpha, steps = _cost(case, rates, reads, weights + hits * size, log.beta + log.promoted, log.external)
    time_s = float(steps.sum())
    compare(problems, claimed_s, time_s)
    return Report(
        SCHEMA,
        tuple(problems),
        sha256,
        time_s,
        steps,
        hit_bytes=np.array([hits.sum(), (reads - hits).sum()]) * size,
        peak_bytes=(
            case.weight_bytes + held * case.item_sizes[0],
            case.layers * case.tokens * case.item_sizes[0],
        ),
        moved_bytes={"up": float(log.promoted.sum()) * size, "down": 0.0},
        mean_alpha=float(alpha.mean()),
    )


def check_best(case: Case, rows: Sequence[NDArray[np.uint8]]) -> Report:
    """Recompute the study's ideal, which assumes that tier 0 is full of items that the slot reads."""
    try:
        rates = _rates(case)
    except Refused as refusal:
        return Report(SCHEMA, tuple(map(str, refusal.args)), case.sha256)
    slots = case.steps * case.layers
    reads = np.stack([_counts(layer) for layer in rows], axis=1).ravel()
    capacity, held = case.capacity[0], case.tokens * case.layers
    if (blocks := case.room[0]) is not None:
        held = min(held, max(blocks - 1, 0))
    new = (_new_items(case) < held).astype(np.int64)
    none = np.zeros(slots, np.int64)
    served = np.full(slots, math.inf if capacity is None else float(capacity))
    alpha, steps = _cost(case, rates, reads, served, new, none)
    everything = case.layers * case.tokens * case.item_sizes[0]
    return Report(
        SCHEMA, (), case.sha256, float(steps.sum()), steps,
        peak_bytes=(case.weight_bytes + held * case.item_sizes[0], everything),
        moved_bytes={"up": 0.0, "down": 0.0}, mean_alpha=float(alpha.mean()),
    )  # fmt: skip


def _counts(layer: NDArray[np.uint8]) -> Ints:
    """Return each step's reads in one layer, own token included, ``(steps,)``."""
    return np.array([np.bitwise_count(row).sum(dtype=np.int64) for row in layer])


def _cost(
    case: Case, rates: _Rates, reads: Ints, served: Floats, written: Ints, external: Ints
) -> tuple[Floats, Floats]:
    """Return alpha, the share of each slot's bytes that tier 0 serves, and the seconds of each step.

    Parameters
    ----------
    reads, written, external
        Items read, written to tier 0, and read from tier 1 to move; ``(slots,)``.
    served
        Bytes that tier 0 could serve, ``(slots,)``.
    """
    size = float(case.item_sizes[0])
    demand = np.tile(case.weight_reads, case.steps) + reads * size
    share = np.divide(served, demand, out=np.ones_like(demand), where=demand > 0)
    alpha = np.minimum(share, rates.hbm / (rates.hbm + rates.external))
    near = (alpha * demand + written * size) / rates.hbm
    far = ((1 - alpha) * demand + external * size) / rates.external
    if rates.read < rates.internal:
        far = np.maximum(far, size / min(rates.write, rates.internal - rates.read))
    else:
        far = far + size / rates.internal
    return alpha, np.maximum(near, far).reshape(case.steps, case.layers).sum(axis=1)


@dataclass(frozen=True)
class _Rates:
    """The four rates of the published accounting, in bytes per second."""

    hbm: float
    read: float
    write: float
    internal: float

    @property
    def external(self) -> float:
        """The rate at which tier 1 delivers reads."""
        return min(self.read, self.internal)


def _rates(case: Case) -> _Rates:
    """Return the four rates after verifying that the instance has the study's form."""
    if len(case.names) != 2:
        raise Refused("fang2025 accounting needs two tiers")
    wanted = {"copies": "inclusive", "timing": "parallel"}
    if any(case.rules[key] != value for key, value in wanted.items()) or case.granularity != 1:
        raise Refused("fang2025 accounting needs inclusive copies, parallel timing and granularity 1")
    near, (reads, writes) = case.reads[0] + case.writes[0], (case.reads[1], case.writes[1])
    found = [case.bandwidth[part > 0] for part in (near, reads - writes, writes - reads, reads * writes)]
    if any(part.size != 1 for part in found):
        raise Refused("fang2025 accounting needs one rate each: tier 0, link down, link up, tier 1's own")
    rates = _Rates(*(float(part[0]) for part in found))
    if rates.read == rates.internal:
        raise Refused("fang2025 accounting divides by zero where the link is as fast as tier 1 itself")
    return rates


@dataclass(frozen=True)
class _Log:
    """The file's arrays; its net changes as slot, item and sign (+1 add, -1 remove), sorted by slot."""

    initial: Ints
    slot: Ints
    item: Ints
    sign: Ints
    placed: NDArray[np.bool_]  # (slots,): whether the new token is among the slot's adds
    beta: Ints
    promoted: Ints
    external: Ints


def _read_log(case: Case, arrays: Mapping[str, Any]) -> _Log:
    """Read the arrays; refuse what cannot be replayed."""
    slots, items = case.steps * case.layers, (case.tokens + PAST_END) * case.layers
    problems: list[str] = []

    def events(kind: str) -> Ints:
        most = slots * items  # each item at most once per slot
        slot, item = (array(arrays, f"{kind}_{part}", "int64", -1, most=most) for part in ("slot", "item"))
        if slot.size != item.size:
            raise Refused(f"{kind}_slot and {kind}_item differ in length")
        outside = (slot < 0) | (slot >= slots) | (item < 0) | (item >= items)
        note(problems, outside, lambda k: f"{kind} {k}: its slot or item is outside the trace")
        note(problems, np.diff(slot) < 0, lambda k: f"{kind} {k + 1}: the slots do not ascend")
        keys = np.sort(slot * items + item)
        note(
            problems,
            np.diff(keys) == 0,
            lambda k: f"{kind}: {_item(case, keys[k] % items)} twice in one slot",
        )
        return keys

    initial = np.sort(array(arrays, "initial", "int64", -1, most=items))
    note(problems, (initial < 0) | (initial >= items), lambda _: "initial names an item outside the trace")
    note(problems, np.diff(initial) == 0, lambda k: f"initial names {_item(case, initial[k])} twice")
    adds, removes = events("add"), events("remove")
    beta = array(arrays, "beta", "uint8", slots).astype(np.int64)
    promoted, external = (array(arrays, name, "int64", slots) for name in ("promoted", "external"))
    note(problems, beta > 1, lambda k: f"{_slot(case, k)}: beta is neither 0 nor 1")
    if problems:
        raise Refused(*problems)
    entered, left = np.setdiff1d(adds, removes), np.setdiff1d(removes, adds)
    keys = np.concatenate([entered, left])
    order = np.argsort(keys)
    sign = np.repeat([1, -1], [entered.size, left.size])[order]
    slot, item = np.divmod(keys[order], items)
    placed = np.isin(np.arange(slots) * items + _new_items(case), adds)
    return _Log(initial, slot, item, sign, placed, beta, promoted, external)


def _new_items(case: Case) -> Ints:
    """Return the item of each slot's new token, ``(slots,)``."""
    return case.prefill * case.layers + np.arange(case.steps * case.layers)


def _slot(case: Case, slot: int) -> str:
    return f"slot {slot} (step {slot // case.layers}, layer {slot % case.layers})"


def _item(case: Case, item: int) -> str:
    return f"token {item // case.layers} of layer {item % case.layers}"


def _check_pool(case: Case, log: _Log, problems: list[str]) -> int:
    """Verify that items enter and leave in turn and that the pool has room for them; return its peak."""
    order = np.lexsort((log.slot, log.item))
    item, sign = log.item[order], log.sign[order]
    was_in = np.concatenate([sign[:0], sign[:1], sign[:-1]]) > 0
    first = np.concatenate([np.ones(min(1, item.size), bool), np.diff(item) != 0])
    was_in[first] = np.isin(item[first], log.initial)

    def describe(k: int) -> str:
        where = f"{_slot(case, log.slot[order[k]])}: {_item(case, item[k])}"
        return f"{where} is added but already there" if was_in[k] else f"{where} is removed but not there"

    note(problems, was_in == (sign > 0), describe)
    changes = np.bincount(log.slot, weights=log.sign, minlength=case.steps * case.layers).astype(np.int64)
    held = np.cumsum(np.concatenate([[log.initial.size], changes]))
    blocks, limit = case.room[0], int(held.max())
    if blocks is not None:
        limit = max(blocks - 1, 0)
        if blocks < 0:
            problems.append(f"the resident weights do not fit into {case.names[0]}")

    def describe_excess(k: int) -> str:
        when = f"after {_slot(case, k - 1)}" if k else "at the start"
        return f"{when}: the pool holds {held[k]} items, {held[k] - limit} over its limit of {limit}"

    note(problems, held > limit, describe_excess)
    return int(held.max())


def _replay(
    case: Case, rows: Sequence[NDArray[np.uint8]], log: _Log, problems: list[str]
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return each slot's reads from tier 0, all its reads, and whether its new token is already in tier 0."""
    layers, width = case.layers, 8 * -(-(case.tokens + PAST_END) // 64)
    held = np.zeros((layers, width), dtype=np.uint8)

    def flip(items: Ints) -> None:
        token, layer = np.divmod(items, layers)
        bits = (1 << (token & 7)).astype(np.uint8)
        np.bitwise_xor.at(held.reshape(-1), layer * width + (token >> 3), bits)

    flip(log.initial)
    wide, words = held.view(np.uint64), [np.ascontiguousarray(layer).view(np.uint64) for layer in rows]
    ends = np.searchsorted(log.slot, np.arange(case.steps * layers + 1))
    hits, reads = np.empty((2, case.steps * layers), dtype=np.int64)
    before, future = np.empty((2, case.steps * layers), dtype=bool)
    for slot in range(case.steps * layers):
        step, layer = divmod(slot, layers)
        row, new = words[layer][step], case.prefill + step
        reads[slot] = np.bitwise_count(row).sum()
        hits[slot] = np.bitwise_count(row & wide[layer, : row.size]).sum()
        before[slot] = held[layer, new >> 3] >> (new & 7) & 1
        future[slot] = bool(int(row[new >> 6]) >> (new & 63) >> 1) or row[(new >> 6) + 1 :].any()
        flip(log.item[ends[slot] : ends[slot + 1]])
    note(problems, future, lambda k: f"{_slot(case, k)}: the trace reads a token that is not born yet")
    return hits, reads, before


def _check_charges(case: Case, log: _Log, before: NDArray[np.bool_], problems: list[str]) -> None:
    """Verify that beta = 1 only for placed tokens, and that hMW covers what migration left in tier 0."""
    unplaced = (log.beta == 1) & ~before & ~log.placed
    note(
        problems,
        unplaced,
        lambda k: f"{_slot(case, k)}: beta is 1 but the new token did not enter tier 0",
    )
    entered = np.bincount(log.slot[log.sign > 0], minlength=log.beta.size)
    stayed = np.zeros(log.beta.size, dtype=bool)
    stayed[log.slot[(log.item == _new_items(case)[log.slot]) & (log.sign > 0)]] = True
    owed = entered - (stayed & (log.beta == 1))  # beta already charges a placed token
    note(problems, log.promoted < owed, lambda k: (
        f"{_slot(case, k)}: migration brought in {owed[k]} items but is charged {log.promoted[k]}"
    ))  # fmt: skip
    invalid = (log.external < 0) | (log.external > log.promoted)
    note(problems, invalid, lambda k: f"{_slot(case, k)}: external reads exceed the promoted items")
