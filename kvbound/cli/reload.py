"""``kvbound reload``: is KV loaded again faster than it is recomputed?"""

from __future__ import annotations

from typing import Annotated

import typer

from kvbound.cli import console, options, source
from kvbound.errors import UsageError


def reload(
    llm: options.Llm = None,
    memory: options.Memory = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of the context whose KV is loaded.")
    ] = None,
    recompute: Annotated[
        str | None, typer.Option(metavar="S", help="Time of recomputing the KV, measured: seconds, 900ms.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Peak rate of arithmetic in TFLOP/s, for the least time of recomputing."
        ),
    ] = None,
    measured: Annotated[
        str | None, typer.Option(metavar="S", help="Time that loading was measured to take: seconds, 30ms.")
    ] = None,
    override: options.Overrides = None,
    kv_dtype: options.KvDtype = None,
    weight_dtype: options.WeightDtype = None,
    as_json: options.Json = False,
) -> None:
    """Say how fast KV can be loaded from each tier at best, or recomputed.

    The KV of a context is read from one tier and written to the fastest: no system takes less time than the
    slowest resource on that way. Recomputing it takes at least two operations per parameter and token.
    """
    from kvbound.reload import recompute_s
    from kvbound.report.reload import describe, document

    if not (llm and memory) or tokens is None:
        raise UsageError("give --llm, --memory and --tokens")
    if recompute is not None and tflops is not None:
        raise UsageError("give --recompute or --tflops, not both")
    if tflops is not None and not 0 < tflops < float("inf"):
        raise UsageError(f"--tflops: expected a rate above 0, not {tflops}")
    [count, *more] = options.counts("--tokens", tokens, 1)
    if more:
        raise UsageError(f"--tokens: expected one number, not {tokens!r}")
    parts = source.Parts(memory, llm, overrides=override, kv_dtype=kv_dtype, weight_dtype=weight_dtype)
    hardware, model = source.hardware(parts, count)
    again = None if recompute is None else options.seconds("--recompute", recompute)
    if tflops is not None:
        again = recompute_s(model, count, tflops * 1e12)
    taken = None if measured is None else options.seconds("--measured", measured)
    known = document(hardware, model, count, again, taken)
    if as_json:
        console.show_json(known)
    else:
        console.show(*describe(known))
