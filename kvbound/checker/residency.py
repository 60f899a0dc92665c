"""Check a residency: the tokens in tier 0 after every slot, as bits, for single tokens and two tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.arrays import Source, array, load
from kvbound.checker.conclusion import Layer, check_initial, conclude, settle
from kvbound.checker.inputs import Case, Rows, check_identity, read_case
from kvbound.checker.report import Ints, Refused, Report, note

SCHEMA = "kvbound.residency/1"
_STEPS = 256
"""Steps processed at once."""
_Words = NDArray[np.uint64]


def check_residency(
    expanded: Mapping[str, Any], rows: Rows, file: Source, *, claimed_s: float | None = None
) -> Report:
    """Check a residency of an instance with ``physical`` accounting; parameters as for `check_schedule`.

    One layer is in memory at a time.
    """
    sha256, problems = None, list[str]()
    try:
        case = read_case(expanded, rows)
        sha256 = case.sha256
        if len(case.names) != 2 or case.granularity != 1 or case.rules["copies"] != "inclusive":
            raise Refused("a residency is of two tiers with inclusive copies and single tokens")
        if case.first:
            raise Refused("a residency has bits of tokens only, not of weights that may be placed")
        arrays = load(file)
        problems = check_identity(arrays, case, SCHEMA, "physical")
        initial = settle(case, array(arrays, "initial", "uint8", case.layers, case.prefill))
        if initial.max(initial=0) > 1:
            raise Refused("initial names a tier that does not exist")
        check_initial(case, initial, problems)
        layers = []
        for layer in range(case.layers):
            reads = case.trace[layer]
            after = array(arrays, f"after_{layer}", "uint8", *reads.shape)
            layers.append(_replay(case, layer, reads, initial[layer], after, problems))
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    return conclude(SCHEMA, case, initial, layers, claimed_s, problems)


def _replay(
    case: Case,
    layer: int,
    rows: NDArray[np.uint8],
    initial: NDArray[np.uint8],
    after: NDArray[np.uint8],
    problems: list[str],
) -> Layer:
    """Compare the bits after each slot with those before it."""
    life, (steps, width) = case.lives[layer], rows.shape
    start = np.zeros((1, width), np.uint8)
    start[0, : -(-case.prefill // 8)] = np.packbits(initial == 0, bitorder="little")
    read, extra, written, held = np.zeros((4, steps, 2), np.int64)
    bad: dict[str, NDArray[np.bool_]] = {}
    rule, ups = case.rules["migration"], 0
    for first in range(0, steps, _STEPS):
        part = slice(first, min(first + _STEPS, steps))
        now = after[part].view(np.uint64)
        before = np.concatenate([start.view(np.uint64), now[:-1]])
        start = np.ascontiguousarray(after[part][-1:])
        begun = _begun(life.past[part.start : part.stop + 1], width // 8)
        ended = life.ended_bits(part, width // 8)
        past, born = begun[:-1], begun[1:] & ~begun[:-1]
        stay = past & ~ended[1:]  # what may be in tier 0 before and after the slot
        reads = rows[part].view(np.uint64)
        entered, left, past_reads = now & ~before & stay, before & ~now & stay, reads & past
        read[part, 0], read[part, 1] = _count(past_reads & before), _count(past_reads & ~before)
        up, unread = _count(entered), _count(entered & ~reads)
        extra[part, 1], written[part, 0] = unread, up + _count(now & born)
        held[part, 0] = _count(now) - _count(before)
        ups += int(up.sum())
        wrong = {
            "a token is in tier 0 that is not born yet": now & ~begun[1:],
            "a token is in tier 0 that has ended": now & ended[1:],
            "the trace reads a token that is not born yet": reads & ~begun[1:],
            "the trace reads a token that has ended": reads & ended[:-1],
        }
        if rule == "none":
            wrong["a token moves, but the rules allow no migration"] = entered | left
        if rule == "on-read":
            wrong["a token goes up without being read (on-read)"] = entered & ~reads
        for what, words in wrong.items():
            bad.setdefault(what, np.zeros(steps, np.bool_))[part] = words.any(axis=1)
    written[:, 1] = life.births
    held[:, 1] = np.diff(life.held_blocks)
    for what, where in bad.items():
        note(problems, where, lambda k, what=what: f"step {k}, layer {layer}: {what}")  # type: ignore[misc]
    births = np.array([written[:, 0].sum() - ups, life.births.sum()])
    return Layer(read, extra, written, held, (ups * case.sizes(layer)[0], 0), births, np.zeros(2, np.int64))


def _begun(past: Ints, words: int) -> _Words:
    """Return bits of the first so many tokens, for each number of `past`: (numbers, words)."""
    word = past >> 6
    bits = np.where(np.arange(words) < word[:, None], ~np.uint64(0), np.uint64(0))
    row = np.flatnonzero(word < words)
    bits[row, word[row]] = (np.uint64(1) << (past[row] & 63).astype(np.uint64)) - np.uint64(1)
    return bits


def _count(words: _Words) -> NDArray[np.int64]:
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)
