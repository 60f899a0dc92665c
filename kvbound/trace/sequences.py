"""The sequences of a batch: in which steps each of them is decoded, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]

_MOST: Final = 2**16
"""Sequences up to which each is listed."""


@dataclass(frozen=True)
class SequenceTime:
    """The decoding of one sequence of a batch.

    Attributes
    ----------
    label
        Its number, from 0, in the order of the sequences' first tokens.
    outputs
        Its decoded tokens.
    first_step, last_step
        The step after the one in which its prompt arrives, and that of its last decoded token.
    time_s
        Seconds from the beginning of the first to the end of the last.
    """

    label: int
    outputs: int
    first_step: int
    last_step: int
    time_s: float

    @property
    def tpot_s(self) -> float:
        """Mean time per output token, in seconds."""
        return self.time_s / self.outputs

    @property
    def tokens_per_s(self) -> float | None:
        """Decoded tokens per second; None if they take no time."""
        return self.outputs / self.time_s if self.time_s else None

    def to_json(self) -> dict[str, Any]:
        """Return what JSON holds."""
        times = {"time_s": self.time_s, "tpot_s": self.tpot_s, "tokens_per_s": self.tokens_per_s}
        steps = {"first_step": self.first_step, "last_step": self.last_step}
        return {"label": self.label, "outputs": self.outputs, **steps, **times}


def sequence_times(timeline: Timeline, step_times: NDArray[np.float64]) -> tuple[SequenceTime, ...]:
    """Return the sequences of which tokens are decoded.

    Empty if the tokens belong to one sequence or to more than `_MOST`, or if it is not clear which of the
    births are outputs: in each step they must be all, or all but the tokens of sequences that begin in it.

    Parameters
    ----------
    step_times
        Seconds of each step, shape (steps,).
    """
    if not timeline.sequence.any() or (found := _decoded(timeline)) is None:
        return ()
    return tuple(
        SequenceTime(label, outputs, first, last, float(step_times[first : last + 1].sum()))
        for label, (outputs, first, last) in enumerate(zip(*(each.tolist() for each in found), strict=True))
        if outputs
    )


def _decoded(timeline: Timeline) -> tuple[Ints, Ints, Ints] | None:
    """Return the outputs of each sequence, its first step and that of its last output, each (sequences,)."""
    sequence, born = timeline.sequence, timeline.born
    arrival = born[np.unique(sequence, return_index=True)[1]]
    if len(arrival) > _MOST:
        return None
    later = born > arrival[sequence]
    every = timeline.outputs == timeline.births
    if not (every | (timeline.outputs == np.bincount(born[later], minlength=timeline.steps))).all():
        return None
    at_once = (arrival >= 0) & every[arrival]  # no prompt: what is born first is decoded
    decoded = later | at_once[sequence]
    last = np.full(len(arrival), -1)
    np.maximum.at(last, sequence[decoded], born[decoded])
    return np.bincount(sequence[decoded], minlength=len(arrival)), arrival + ~at_once, last
