"""Batches: traces of several sequences that are decoded together, each from its own first step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.progress import Progress, silent
from kvbound.trace import bits
from kvbound.trace.build import Order, too_large
from kvbound.trace.data import Trace
from kvbound.trace.experts import union
from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]
Reader = Callable[[int], NDArray[np.uint8]]
"""Returns the next rows of a sequence's reads, as many as asked for, unpacked, (rows, tokens)."""


def batch(traces: Sequence[Trace], starts: Sequence[int] | None = None, progress: Progress = silent) -> Trace:
    """Combine the traces of several sequences into one, in which they are decoded together.

    In each step one token is decoded of every sequence that has begun and not finished. The prompt of a
    sequence that begins later is born in the step before its first, and its tokens are no outputs. The tokens
    of a sequence end in its last step, or stay if that is the last step of all. Where the sequences name
    experts, a step names those of all of them.

    Parameters
    ----------
    traces
        One sequence each, with the same layers. A single one is returned unchanged.
    starts
        First step of each sequence, the earliest 0; by default all begin at 0.

    Raises
    ------
    UsageError
        The traces or starts do not fit together.
    """
    first = _starts(traces, starts)
    if len(traces) == 1:
        return traces[0]
    steps = max(start + trace.decode_steps for start, trace in zip(first, traces, strict=True))
    if excess := too_large(traces[0].layers, sum(trace.tokens for trace in traces), steps):
        raise UsageError(f"expected {excess}")
    timeline, ids = timeline_of([(trace.prefill_tokens, trace.decode_steps) for trace in traces], first)
    lengths, layers = [trace.decode_steps for trace in traces], traces[0].layers
    sources = "; ".join(dict.fromkeys(trace.source for trace in traces if trace.source))
    licences = "; ".join(dict.fromkeys(trace.licence for trace in traces if trace.licence))
    source = f"{len(traces)} sequences decoded together: {sources}"
    if all(trace.dense for trace in traces):
        return Trace.from_timeline(timeline, layers, source=source, licence=licences)
    rows, order, mass = [], [], []
    for layer in range(layers):
        progress(layer, layers, "layers combined")
        readers = [_reader(trace, layer) for trace in traces]
        rows.append(np.concatenate(list(combined_rows(readers, lengths, first, timeline, ids))))
        listed, weighed = _lists(traces, layer, first, timeline, ids)
        order.append(listed)
        mass.append(weighed)
    return Trace(
        timeline.prefill_tokens, tuple(rows), tuple(order), tuple(mass), source, licences, timeline=timeline,
        experts=union([trace.experts for trace in traces], first, steps) if traces[0].experts else (),
    )  # fmt: skip


def _starts(traces: Sequence[Trace], starts: Sequence[int] | None) -> list[int]:
    first = [0] * len(traces) if starts is None else list(starts)
    if not traces:
        raise UsageError("a batch has at least one trace")
    if len(first) != len(traces):
        raise UsageError(f"expected one start for each of {len(traces)} traces, not {len(first)}")
    if min(first) != 0:
        raise UsageError(f"expected starts of steps, the earliest 0, not {', '.join(map(str, first))}")
    for number, trace in enumerate(traces, 1):
        if trace.layers != traces[0].layers:
            raise UsageError(f"trace {number} has {trace.layers} layers, the first {traces[0].layers}")
        if not trace.timeline.plain:
            raise UsageError(f"trace {number} is a batch itself; expected one sequence")
        if bool(trace.experts) != bool(traces[0].experts):
            has, first_has = ("experts" if each.experts else "none" for each in (trace, traces[0]))
            raise UsageError(f"trace {number} names {has}, the first {first_has}; expected the same of all")
    return first


def timeline_of(shapes: Sequence[tuple[int, int]], starts: Sequence[int]) -> tuple[Timeline, list[Ints]]:
    """Return the timeline of a batch, and the ids in it of every sequence's tokens.

    Parameters
    ----------
    shapes
        Prompt tokens and decode steps of each sequence.
    starts
        First step of each sequence.
    """
    ends = [start + steps for start, (_, steps) in zip(starts, shapes, strict=True)]
    steps = max(ends)
    born, sequence, decoded = [], [], np.zeros(steps, np.int64)
    for number, (start, end, (prompt, _)) in enumerate(zip(starts, ends, shapes, strict=True)):
        born += [np.full(prompt, start - 1), np.arange(start, end)]
        sequence.append(np.full(prompt + end - start, number))
        decoded[start:end] += 1
    birth, owner = np.concatenate(born), np.concatenate(sequence)
    order = np.argsort(birth, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    last = np.where(np.array(ends) < steps, np.array(ends) - 1, steps)  # those of the last step stay
    timeline = Timeline.of(
        int(np.count_nonzero(birth < 0)), steps,
        births=np.bincount(birth[birth >= 0], minlength=steps),
        ends=last[owner[order]], sequence=owner[order], outputs=decoded,
    )  # fmt: skip
    return timeline, np.split(place, np.cumsum([len(own) for own in sequence])[:-1])


def combined_rows(
    readers: Sequence[Reader],
    lengths: Sequence[int],
    starts: Sequence[int],
    timeline: Timeline,
    ids: Sequence[Ints],
) -> Iterator[NDArray[np.uint8]]:
    """Yield the packed reads of a layer of a batch in blocks, (rows, bytes).

    Parameters
    ----------
    readers, lengths
        Of each sequence: a function that returns its next rows, unpacked, and their number.
    """
    for block in bits.blocks(timeline.steps):
        read = np.zeros((block.stop - block.start, 8 * bits.row_bytes(timeline.tokens)), np.uint8)
        for reader, length, start, own in zip(readers, lengths, starts, ids, strict=True):
            low, high = max(block.start, start), min(block.stop, start + length)
            if low < high:
                read[low - block.start : high - block.start, own] = reader(high - low)
        yield bits.pack(read)


def _reader(trace: Trace, layer: int) -> Reader:
    """Return a function that returns the next rows of a trace's layer, as many as asked for, unpacked."""
    done = 0

    def read(count: int) -> NDArray[np.uint8]:
        nonlocal done
        done += count
        return bits.unpack(trace.rows[layer][done - count : done], trace.tokens)

    return read


def _lists(
    traces: Sequence[Trace], layer: int, first: Sequence[int], timeline: Timeline, ids: list[Ints]
) -> tuple[Order | None, NDArray[np.float16] | None]:
    """Return the lists of a layer, in each step one sequence after the other, and their mass, if recorded."""
    weighed = all(trace.mass[layer] is not None for trace in traces)
    if not weighed and all(trace.order[layer] is None for trace in traces):
        return None, None
    listed: list[Ints] = []
    masses: list[NDArray[np.float16]] = []
    counts = np.zeros(timeline.steps, np.int64)
    for step in range(timeline.steps):
        for start, trace, own in zip(first, traces, ids, strict=True):
            if start <= step < start + trace.decode_steps:
                listed.append(own[trace.listed(step - start, layer)])
                counts[step] += len(listed[-1])
                mass = trace.listed_mass(step - start, layer)
                if weighed and mass is not None:
                    masses.append(mass)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    order = Order(np.concatenate(listed).astype(np.int32), offsets)
    return order, np.concatenate(masses) if weighed else None
