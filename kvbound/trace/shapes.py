"""The shapes of a trace's arrays, and the timeline where none is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.build import MAX_LAYERS, too_large
from kvbound.trace.experts import WIDTHS, is_width
from kvbound.trace.timeline import MAX_TOKENS, Timeline

if TYPE_CHECKING:
    from kvbound.trace.data import Trace


def check_shapes(trace: Trace) -> None:
    """Check the arrays of a trace.

    Raises
    ------
    InputError
        Shapes, types or sizes do not match.
    """

    def fail(field: str, expected: str) -> InputError:
        return InputError("trace", field, expected)

    if not 1 <= len(trace.rows) <= MAX_LAYERS:
        raise fail("layers", f"1 to {MAX_LAYERS:,} layers, not {len(trace.rows)}")
    steps = trace.decode_steps if trace.dense else len(trace.rows[0])
    if trace.timeline.prefill_tokens != trace.prefill_tokens or trace.timeline.steps != steps:
        raise fail("timeline", f"{trace.prefill_tokens:,} prompt tokens and {steps:,} steps")
    if not trace.tokens:
        raise fail("births", "at least one token in all")
    if excess := too_large(trace.layers, trace.tokens, trace.decode_steps):
        raise fail("layers", excess)
    shape = (trace.decode_steps, bits.row_bytes(trace.tokens))
    if len(trace.order) != trace.layers or len(trace.mass) != trace.layers:
        raise fail("order", "one entry per layer in order and mass")
    if trace.dense:
        return
    for layer, rows in enumerate(trace.rows):
        if rows.dtype != np.uint8 or rows.shape != shape or not rows.flags.c_contiguous:
            raise fail(f"rows[{layer}]", f"uint8 rows of shape {shape}, not {rows.dtype} {rows.shape}")
        order = trace.order[layer]
        if order is not None and (
            order.ids.dtype != np.int32 or order.ids.ndim != 1
            or order.offsets.dtype != np.int64 or order.offsets.shape != (trace.decode_steps + 1,)
        ):  # fmt: skip
            raise fail(f"order[{layer}]", "int32 ids and int64 offsets, one more than steps")
        mass = trace.mass[layer]
        if mass is not None and (mass.dtype != np.float16 or mass.ndim != 1):
            raise fail(f"mass[{layer}]", f"a flat float16 array, not {mass.dtype} {mass.shape}")
    if trace.experts and len(trace.experts) != trace.layers:
        raise fail("experts", f"one array for each of the {trace.layers} layers, not {len(trace.experts)}")
    for layer, named in enumerate(trace.experts):
        steps, width = named.shape if named.ndim == 2 else (0, 0)
        fits = steps == trace.decode_steps and is_width(width)
        if named.dtype != np.uint8 or not (fits and named.flags.c_contiguous):
            expected = f"uint8 rows of shape ({trace.decode_steps}, {WIDTHS})"
            raise fail(f"experts[{layer}]", f"{expected}, not {named.dtype} {named.shape}")


def plain_timeline(trace: Trace) -> Timeline:
    """Return the timeline with one birth in every step and no ends; refuse shapes that are too large."""
    steps = len(trace.rows[0]) if trace.rows else 0
    if not 0 <= trace.prefill_tokens <= MAX_TOKENS:
        raise InputError(
            "trace", "prefill_tokens", f"0 to {MAX_TOKENS:,} tokens, not {trace.prefill_tokens:,}"
        )
    if trace.rows and steps < 1:
        raise InputError("trace", "decode_steps", "at least 1 step")
    if excess := too_large(len(trace.rows), trace.prefill_tokens + steps, steps):
        raise InputError("trace", "layers", excess)
    return Timeline.of(trace.prefill_tokens, steps)
