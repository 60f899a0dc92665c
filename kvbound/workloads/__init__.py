"""Synthetic workloads: generators of read traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import Fields, did_you_mean, show
from kvbound.workloads.batch import Batch
from kvbound.workloads.dense import Dense
from kvbound.workloads.fang2025 import Fang2025
from kvbound.workloads.make import make
from kvbound.workloads.random_swap import RandomSwap
from kvbound.workloads.recorded_like import RecordedLike
from kvbound.workloads.routed import FIELDS as ROUTING
from kvbound.workloads.routed import Routed
from kvbound.workloads.synthetic import CountRule, OneSequence, Synthetic

__all__ = [
    "KINDS",
    "Batch",
    "CountRule",
    "Dense",
    "Fang2025",
    "RandomSwap",
    "RecordedLike",
    "Routed",
    "Synthetic",
    "from_mapping",
    "make",
    "shape",
]

KINDS: Final[Mapping[str, type[OneSequence]]] = {
    each.kind: each for each in (Dense, Fang2025, RandomSwap, RecordedLike)
}


def from_mapping(mapping: Mapping[str, Any], *, file: object = "workload", field: str = "") -> Synthetic:
    """Read a synthetic workload: ``{"kind": ..., "layers": ..., ...}``; with ``batch``, several sequences,
    with ``experts``, routed to these.

    Raises
    ------
    InputError
        The kind is unknown, or a field is missing, unknown or out of range.
    """
    kind = Fields(mapping, file, field).text("kind")
    if kind not in KINDS:
        place = f"{field}.kind" if field else "kind"
        raise InputError(
            file, place, f"one of {', '.join(KINDS)}, not {show(kind)}{did_you_mean(kind, KINDS)}"
        )
    fields = Fields(mapping, file, field)
    single = {name: fields.raw(name) for name in fields if name not in ("batch", "arrivals", *ROUTING)}
    reads = Batch.parse(KINDS[kind].from_mapping(single, file=file, field=field), fields)
    return Routed.parse(reads, fields)


def shape(spec: Synthetic) -> tuple[int, int, int, NDArray[np.int64]]:
    """Return layers, prefill tokens, decode steps and read counts (steps, layers), without the trace."""
    counts = np.repeat(spec.step_counts()[:, None], spec.layers, axis=1)
    return spec.layers, spec.prefill_tokens, spec.decode_steps, counts
