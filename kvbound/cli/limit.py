"""``kvbound limit``: what no placement can beat at a given context and batch."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import typer

from kvbound.cli import console, options, source
from kvbound.errors import UsageError


def limit(
    llm: options.Llm = None,
    memory: options.Memory = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Tokens of each sequence; a list makes a row for each."),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="B,...", help="Sequences decoded together; a list makes a row for each.")
    ] = "1",
    share: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of the context that a step reads, such as 15%.")
    ] = "100%",
    allocated: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens for which each sequence keeps room; by default --context."),
    ] = None,
    measured: Annotated[
        float | None,
        typer.Option(metavar="X", help="Tokens/s measured in the first row, for all sequences together."),
    ] = None,
    override: options.Overrides = None,
    kv_dtype: options.KvDtype = None,
    weight_dtype: options.WeightDtype = None,
    as_json: options.Json = False,
) -> None:
    """Say how fast a model can decode at best.

    Every step reads the weights once, and the KV of each sequence's context, wherever they are best placed.
    Next to the limit are the rates with everything in the fastest tier, for as many of the sequences as fit;
    with the best placement if tiers are read one after the other; with whole layers in the fastest tier, as
    llama.cpp places them with -ngl; and with all KV in the second tier, as with -nkvo.
    """
    from kvbound.limit import Decoding
    from kvbound.report.limit import describe, document

    if not (llm and memory) or context is None:
        raise UsageError("give --llm, --memory and --context")
    if measured is not None and not 0 < measured < float("inf"):
        raise UsageError(f"--measured: expected tokens/s above 0, not {measured}")
    contexts, batches = options.counts("--context", context, 0), options.counts("--batch", batch, 1)
    [room] = [None] if allocated is None else options.counts("--allocated", allocated, 0)[:1]
    read = options.share("--share", share)
    parts = source.Parts(memory, llm, overrides=override, kv_dtype=kv_dtype, weight_dtype=weight_dtype)
    settings = []
    for tokens, sequences in product(contexts, batches):
        kept = sequences * (tokens if room is None else room)
        settings.append(Decoding(*source.hardware(parts, kept), tokens, sequences, read, room))
    if as_json:
        console.show_json(document(settings, measured))
    else:
        console.show(*describe(settings, measured))
