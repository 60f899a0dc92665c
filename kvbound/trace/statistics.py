"""Statistics of a trace: reads per slot, overlap of steps, reuse gaps, ages and working sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.progress import Progress, silent
from kvbound.trace import Trace, bits
from kvbound.trace.timeline import Timeline

AGE_LIMITS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384)
"""Upper ends of the age classes; one more class is unbounded."""
WINDOWS: Final = (1, 8, 64)
"""Steps over which distinct tokens are counted; divisors of `bits.BLOCK_ROWS`."""
_THREADS: Final = 2


@dataclass(frozen=True)
class LayerInfo:
    """Statistics of one layer, or of all layers together; reads of tokens born in the step do not count.

    Parameters
    ----------
    reads_mean, reads_min, reads_max
        Reads per slot.
    share_of_past
        Mean share that a slot reads of the past tokens that exist.
    overlap
        Mean share of the previous step's reads that are read again; None if there is one step only.
    reuse_gap
        Steps from each read to the next read of the same token: ``p50``, ``p90`` and ``p99`` (the smallest
        gap that at least this share of the gaps do not exceed), and ``share_1``, the share of gaps of one
        step. None if no token is read twice.
    age
        Share of the reads by age, which is the number of past tokens of the sequence from the token read on:
        ``1``, ``2-4``, ``5-16``, ...
    working_set
        Distinct tokens read in a layer within windows of 1, 8 and 64 consecutive steps (mean over the
        complete windows, left out if there are none), and in ``all`` steps.
    own_reads
        Reads of the steps' own tokens, which the accounting `physical` ignores.
    """

    reads_mean: float
    reads_min: int
    reads_max: int
    share_of_past: float
    overlap: float | None
    reuse_gap: dict[str, float] | None
    age: dict[str, float]
    working_set: dict[str, float]
    own_reads: int


@dataclass(frozen=True)
class TraceInfo:
    """Shape and origin of a trace, its `batch_figures` and `expert_figures`, and statistics of its reads."""

    layers: int
    prefill_tokens: int
    decode_steps: int
    tokens: int
    batch: dict[str, int]
    source: str
    licence: str
    experts: dict[str, Any]
    overall: LayerInfo
    by_layer: tuple[LayerInfo, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        mapping = dataclasses.asdict(self)
        del mapping["tokens"], mapping["batch"], mapping["experts"]
        return mapping | self.batch | self.experts


def batch_figures(timeline: Timeline) -> dict[str, int]:
    """Return the figures in which a trace differs from one sequence with one birth in every step and no ends.

    They are ``births`` in all steps and ``births_max`` in one step, the decoded tokens among the births
    (``outputs``), the number of ``sequences``, and ``live_tokens_max``, the largest number of tokens that
    exist at any time; each is left out where such a sequence would have the same figure.
    """
    figures: dict[str, int] = {}
    if not timeline.one_each:
        figures |= {"births": int(timeline.births.sum()), "births_max": int(timeline.births.max())}
    if not np.array_equal(timeline.outputs, timeline.births):
        figures["outputs"] = int(timeline.outputs.sum())
    if timeline.sequence.any():
        figures["sequences"] = int(timeline.sequence.max()) + 1
    if not timeline.all_stay:
        figures["live_tokens_max"] = timeline.most_live
    return figures


def expert_figures(experts: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Return under ``experts`` the statistics of the experts named, over the layers that name any.

    They are the mean, least and largest number named in a slot (``named_mean``, ``named_min``,
    ``named_max``), the mean share of a step's experts that the next one names again (``overlap``, None if
    there is one step only), and the mean number of different ones in a layer (``distinct``). Nothing is
    returned if none are named.

    Parameters
    ----------
    experts
        Packed, by layer; see `kvbound.trace.Trace`.
    """
    rows = [bits.words(named) for named in experts if named.any()]
    if not rows:
        return {}
    counts = np.stack([np.bitwise_count(named).sum(axis=1, dtype=np.int64) for named in rows])
    again = np.stack([np.bitwise_count(named[1:] & named[:-1]).sum(axis=1, dtype=np.int64) for named in rows])
    held = counts[:, :-1] > 0
    kept = again[held] / counts[:, :-1][held]
    distinct = [np.bitwise_count(np.bitwise_or.reduce(named, axis=0)).sum() for named in rows]
    figures = {
        "named_mean": float(counts.mean()),
        "named_min": int(counts.min()),
        "named_max": int(counts.max()),
        "overlap": float(kept.mean()) if len(kept) else None,
        "distinct": float(np.mean(distinct)),
    }
    return {"experts": figures}


def trace_info(trace: Trace, progress: Progress | None = None) -> TraceInfo:
    """Measure a trace, layer by layer."""
    report = progress or silent
    tallies: list[_Tally] = []
    if trace.dense:
        tallies = [_dense_tally(trace.timeline)] * trace.layers
        report(trace.layers, trace.layers, "layers measured")
        return _info(trace, tallies)
    with ThreadPoolExecutor(_THREADS) as pool:
        for tally in pool.map(lambda rows: _tally(rows, trace.timeline), trace.rows):
            tallies.append(tally)
            report(len(tallies), trace.layers, "layers measured")
    return _info(trace, tallies)


def _info(trace: Trace, tallies: list[_Tally]) -> TraceInfo:
    return TraceInfo(
        trace.layers, trace.prefill_tokens, trace.decode_steps, trace.tokens, batch_figures(trace.timeline),
        trace.source, trace.licence, expert_figures(trace.experts),
        _figures(tallies), tuple(_figures([tally]) for tally in tallies),
    )  # fmt: skip


def age_names() -> list[str]:
    """Names of the age classes."""
    lows = [1, *(limit + 1 for limit in AGE_LIMITS)]
    closed = [
        str(low) if low == high else f"{low}-{high}" for low, high in zip(lows, AGE_LIMITS, strict=False)
    ]
    return [*closed, f">{AGE_LIMITS[-1]}"]


@dataclass
class _Tally:
    """Counts over one layer."""

    counts: NDArray[np.int64]  # reads of each step (steps,)
    own: int
    shares: NDArray[np.float64]  # counts over past tokens that exist (steps,)
    kept: NDArray[np.float64]  # share of each step's reads that the next step repeats
    gaps: NDArray[np.int64]  # number of reuse gaps of each length (steps,)
    ages: NDArray[np.int64]  # reads by age class
    distinct: dict[str, list[int]]  # distinct tokens of every window


def _tally(rows: NDArray[np.uint8], timeline: Timeline) -> _Tally:
    steps = len(rows)
    counts, common = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    gaps, ages = np.zeros(steps, np.int64), np.zeros(len(AGE_LIMITS) + 1, np.int64)
    distinct: dict[str, list[int]] = {str(window): [] for window in WINDOWS}
    # step of each token's latest read before the previous step
    last = np.full(8 * rows.shape[1], -1, np.int64)
    before = np.zeros((1, rows.shape[1] // 8), np.uint64)
    union, own = before[0].copy(), 0
    for block in bits.blocks(steps):
        first, end = timeline.past[:-1][block], timeline.past[1:][block]
        past = bits.words(bits.without(rows[block], first, end))
        own += int(bits.count_within(rows[block], first, end).sum())
        shifted = np.concatenate([before, past[:-1]])
        counts[block] = np.bitwise_count(past).sum(axis=1, dtype=np.int64)
        common[block] = np.bitwise_count(past & shifted).sum(axis=1, dtype=np.int64)
        _count_gaps(past & ~shifted, shifted & ~past, block.start, last, gaps)
        ages += _count_ages(past, timeline, block)
        for window in WINDOWS:
            complete = past[: len(past) // window * window].reshape(-1, window, past.shape[1])
            distinct[str(window)] += (
                np.bitwise_count(np.bitwise_or.reduce(complete, axis=1)).sum(axis=1, dtype=int).tolist()
            )
        union |= np.bitwise_or.reduce(past, axis=0)
        before = past[-1:]
    gaps[1:2] += common.sum()
    distinct["all"] = [int(np.bitwise_count(union).sum())]
    past_tokens = np.maximum(timeline.live[:-1], 1)
    held = counts[:-1] > 0
    return _Tally(
        counts, own, counts / past_tokens, common[1:][held] / counts[:-1][held], gaps, ages, distinct
    )


def _dense_tally(timeline: Timeline) -> _Tally:
    """Count over a layer in which every step reads all past tokens that exist: in closed form."""
    steps, born, ends = timeline.steps, timeline.born, np.minimum(timeline.ends, timeline.steps - 1)
    counts = timeline.live[:-1]
    read = born < ends  # at all: from the step after the birth to the end
    first, last = np.bincount(born[read] + 1, minlength=steps + 1), np.bincount(ends[read], minlength=steps)
    common = np.zeros(steps, np.int64)
    common[1:] = (counts - last)[:-1]  # what the step before reads and does not lose
    gaps = np.zeros(steps, np.int64)
    gaps[1:2] = common.sum()
    younger = [
        np.maximum(np.minimum(timeline.windowed(limit + 1).ends, ends) - born, 0).sum()
        for limit in AGE_LIMITS
    ]
    ages = np.diff([0, *younger, counts.sum()])
    begun, gone = np.cumsum(first), np.cumsum(last)
    distinct = {"all": [int(np.count_nonzero(read))]}
    for window in WINDOWS:
        end = np.arange(window - 1, steps, window)  # last step of each complete window
        before = np.where(end >= window, gone[end - window], 0)
        distinct[str(window)] = (begun[end] - before).tolist()
    held = counts[:-1] > 0
    return _Tally(
        counts, 0, counts / np.maximum(counts, 1), common[1:][held] / counts[:-1][held], gaps, ages,
        {name: distinct[name] for name in (*map(str, WINDOWS), "all")},
    )  # fmt: skip


def _count_gaps(
    begun: NDArray[np.uint64],
    ended: NDArray[np.uint64],
    start: int,
    last: NDArray[np.int64],
    gaps: NDArray[np.int64],
) -> None:
    """Add the gaps of more than one step.

    `begun` marks the tokens that a step reads and the previous one does not, `ended` the reverse: a token in
    `begun` was last read one step before it was last in `ended`.
    """
    for row in range(len(begun)):
        step = start + row
        last[bits.ids(ended[row].view(np.uint8))] = step - 1
        since = last[bits.ids(begun[row].view(np.uint8))]
        gaps += np.bincount(step - since[since >= 0], minlength=len(gaps))


def _count_ages(past: NDArray[np.uint64], timeline: Timeline, steps: slice) -> NDArray[np.int64]:
    """Return the reads of some steps in each age class; see `LayerInfo.age`."""
    if not timeline.one_each or timeline.sequence.any():
        return _count_ages_in_batch(past, timeline, steps)
    token = timeline.past[:-1][steps]
    before = np.zeros((len(past), past.shape[1] + 1), np.int32)  # reads in the words before each word
    np.cumsum(np.bitwise_count(past), axis=1, dtype=np.int32, out=before[:, 1:])
    row = np.arange(len(past))
    edges = [token]
    edges += [np.maximum(token - limit, 0) for limit in AGE_LIMITS]
    below = []  # reads with ids below each edge
    for edge in edges:
        word = edge >> 6
        mask = (np.uint64(1) << (edge & 63).astype(np.uint64)) - np.uint64(1)
        below.append(int((before[row, word] + np.bitwise_count(past[row, word] & mask)).sum(dtype=np.int64)))
    return -np.diff([*below, 0])


def _count_ages_in_batch(past: NDArray[np.uint64], timeline: Timeline, steps: slice) -> NDArray[np.int64]:
    ages = np.zeros(len(AGE_LIMITS) + 1, np.int64)
    sequence, position = timeline.sequence, timeline.position
    born = np.bincount(sequence[: timeline.past[steps.start]], minlength=int(sequence.max(initial=0)) + 1)
    for step, row in zip(range(steps.start, steps.stop), past, strict=True):
        ids = bits.ids(row.view(np.uint8))
        age = born[sequence[ids]] - position[ids]
        ages += np.bincount(np.searchsorted(AGE_LIMITS, age), minlength=len(ages))
        np.add.at(born, sequence[timeline.past[step] : timeline.past[step + 1]], 1)
    return ages


def _figures(tallies: Iterable[_Tally]) -> LayerInfo:
    tallies = list(tallies)
    counts = np.concatenate([tally.counts for tally in tallies])
    kept = np.concatenate([tally.kept for tally in tallies])
    ages = sum((tally.ages for tally in tallies[1:]), tallies[0].ages)
    distinct = {name: [n for tally in tallies for n in tally.distinct[name]] for name in tallies[0].distinct}
    return LayerInfo(
        reads_mean=float(counts.mean()), reads_min=int(counts.min()), reads_max=int(counts.max()),
        share_of_past=float(np.mean([tally.shares for tally in tallies])),
        overlap=float(kept.mean()) if len(kept) else None,
        reuse_gap=_gap_figures(sum((tally.gaps for tally in tallies[1:]), tallies[0].gaps)),
        age={name: float(n / max(counts.sum(), 1)) for name, n in zip(age_names(), ages, strict=True)},
        working_set={name: float(np.mean(sizes)) for name, sizes in distinct.items() if sizes},
        own_reads=sum(tally.own for tally in tallies),
    )  # fmt: skip


def _gap_figures(gaps: NDArray[np.int64]) -> dict[str, float] | None:
    total = int(gaps.sum())
    if not total:
        return None
    reached = np.cumsum(gaps) / total
    figures = {f"p{p}": float(np.searchsorted(reached, p / 100)) for p in (50, 90, 99)}
    return figures | {"share_1": float(gaps[1] / total)}
