"""The shapes of a trace's arrays, and the timeline where none is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.build import MAX_LAYERS, Order, too_large
from kvbound.trace.experts import WIDTHS, is_width
from kvbound.trace.timeline import MAX_TOKENS, Timeline


def check_sizes(prefill_tokens: int, layers: int, steps: int, timeline: Timeline) -> None:
    """Check the sizes of a trace.

    Raises
    ------
    InputError
        They are too large, or not those of the timeline.
    """
    if not 1 <= layers <= MAX_LAYERS:
        raise _error("layers", f"1 to {MAX_LAYERS:,} layers, not {layers}")
    if timeline.prefill_tokens != prefill_tokens or timeline.steps != steps:
        raise _error("timeline", f"{prefill_tokens:,} prompt tokens and {steps:,} steps")
    if not timeline.tokens:
        raise _error("births", "at least one token in all")
    if excess := too_large(layers, timeline.tokens, steps):
        raise _error("layers", excess)


def check_arrays(
    timeline: Timeline,
    rows: Sequence[NDArray[np.uint8]],
    order: Sequence[Order | None],
    mass: Sequence[NDArray[np.float16] | None],
    experts: Sequence[NDArray[np.uint8]],
) -> None:
    """Check types and shapes of a trace's arrays; see `kvbound.trace.Trace`.

    Raises
    ------
    InputError
        They do not match.
    """
    layers, shape = len(rows), (timeline.steps, bits.row_bytes(timeline.tokens))
    if len(order) != layers or len(mass) != layers:
        raise _error("order", "one entry per layer in order and mass")
    for layer, (packed, listed, weighed) in enumerate(zip(rows, order, mass, strict=True)):
        if packed.dtype != np.uint8 or packed.shape != shape or not packed.flags.c_contiguous:
            raise _error(f"rows[{layer}]", f"uint8 rows of shape {shape}, not {packed.dtype} {packed.shape}")
        if listed is not None and (
            listed.ids.dtype != np.int32 or listed.ids.ndim != 1
            or listed.offsets.dtype != np.int64 or listed.offsets.shape != (timeline.steps + 1,)
        ):  # fmt: skip
            raise _error(f"order[{layer}]", "int32 ids and int64 offsets, one more than steps")
        if weighed is not None and (weighed.dtype != np.float16 or weighed.ndim != 1):
            raise _error(f"mass[{layer}]", f"a flat float16 array, not {weighed.dtype} {weighed.shape}")
    if experts and len(experts) != layers:
        raise _error("experts", f"one array for each of the {layers} layers, not {len(experts)}")
    for layer, named in enumerate(experts):
        steps, width = named.shape if named.ndim == 2 else (0, 0)
        fits = steps == timeline.steps and is_width(width) and named.flags.c_contiguous
        if named.dtype != np.uint8 or not fits:
            expected = f"uint8 rows of shape ({timeline.steps}, {WIDTHS})"
            raise _error(f"experts[{layer}]", f"{expected}, not {named.dtype} {named.shape}")


def plain_timeline(prefill_tokens: int, layers: int, steps: int) -> Timeline:
    """Return the timeline with one birth in every step and no ends.

    Raises
    ------
    InputError
        It would be too large.
    """
    if not 0 <= prefill_tokens <= MAX_TOKENS:
        raise _error("prefill_tokens", f"0 to {MAX_TOKENS:,} tokens, not {prefill_tokens:,}")
    if layers and steps < 1:
        raise _error("decode_steps", "at least 1 step")
    if excess := too_large(layers, prefill_tokens + steps, steps):
        raise _error("layers", excess)
    return Timeline.of(prefill_tokens, steps)


def _error(field: str, expected: str) -> InputError:
    return InputError("trace", field, expected)
