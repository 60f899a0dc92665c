"""Check a residency: the tokens in tier 0 after every slot, as bits, for single tokens and two tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case, Rows, Source, array, check_identity, load, read_case
from kvbound.checker.physical import Layer, check_initial, conclude
from kvbound.checker.report import Refused, Report, note

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
        arrays = load(file)
        problems = check_identity(arrays, case, SCHEMA, "physical")
        initial = array(arrays, "initial", "uint8", case.layers, case.prefill)
        if initial.max(initial=0) > 1:
            raise Refused("initial names a tier that does not exist")
        check_initial(case, initial, problems)
        layers = []
        for layer in range(case.layers):
            after = array(arrays, f"after_{layer}", "uint8", *rows[layer].shape)
            layers.append(_replay(case, layer, rows[layer], initial[layer], after, problems))
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
    steps, width = rows.shape
    start = np.zeros((1, width), np.uint8)
    start[0, : -(-case.prefill // 8)] = np.packbits(initial == 0, bitorder="little")
    read, extra, written, held = np.zeros((4, steps, 2), np.int64)
    bad = np.zeros((4, steps), np.bool_)
    ups = 0
    for first in range(0, steps, _STEPS):
        part = slice(first, min(first + _STEPS, steps))
        now = after[part].view(np.uint64)
        before = np.concatenate([start.view(np.uint64), now[:-1]])
        start = np.ascontiguousarray(after[part][-1:])
        alive, born = _alive(case, part, width)
        reads = rows[part].view(np.uint64)
        entered, left, past_reads = now & ~before & alive, before & ~now, reads & alive
        read[part, 0], read[part, 1] = _count(past_reads & before), _count(past_reads & ~before)
        up, unread = _count(entered), _count(entered & ~reads)
        placed = _count(now & born)  # new tokens in tier 0
        extra[part, 1], written[part, 0], written[part, 1] = unread, up + placed, 1
        held[part, 0], held[part, 1] = up + placed - _count(left), 1
        ups += int(up.sum())
        bad[0, part] = _count(now & ~(alive | born)) > 0
        bad[1, part] = _count(reads & ~(alive | born)) > 0
        if case.rules["migration"] == "none":
            bad[2, part] = up + _count(left) > 0
        if case.rules["migration"] == "on-read":
            bad[3, part] = unread > 0
    for where, what in zip(
        bad,
        (
            "a token is in tier 0 that is not born yet",
            "the trace reads a token that is not born yet",
            "a token moves, but the rules allow no migration",
            "a token goes up without being read (on-read)",
        ),
        strict=True,
    ):
        note(problems, where, lambda k, what=what: f"step {k}, layer {layer}: {what}")  # type: ignore[misc]
    return Layer(read, extra, written, held, (ups, 0))


def _alive(case: Case, steps: slice, width: int) -> tuple[_Words, _Words]:
    """Return bits of the tokens born before each step, and of the one born in it, (steps, words)."""
    token = case.prefill + np.arange(steps.start, steps.stop)
    row, byte, bit = np.arange(len(token)), token >> 3, 1 << (token & 7)
    alive = 255 * (np.arange(width) < byte[:, None]).astype(np.uint8)
    born = np.zeros_like(alive)
    alive[row, byte], born[row, byte] = bit - 1, bit
    return alive.view(np.uint64), born.view(np.uint64)


def _count(words: _Words) -> NDArray[np.int64]:
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)
