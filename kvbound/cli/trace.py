"""``kvbound trace``: make, convert and inspect read traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import console, options, output, source
from kvbound.errors import InputError, UsageError

if TYPE_CHECKING:
    from kvbound.trace import Trace
    from kvbound.workloads import Synthetic

Source = Annotated[str, typer.Option("--source", metavar="TEXT", help="Origin of the reads.")]
Licence = Annotated[str, typer.Option(metavar="TEXT", help="Licence of the trace.")]
TracePath = Annotated[Path, typer.Argument(metavar="TRACE", help="Trace folder or CSV file.")]


def info(
    trace: TracePath,
    layers: Annotated[bool, typer.Option("--layers", help="Also print a row for every layer.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print statistics of the reads."""
    from kvbound.report.trace import describe
    from kvbound.trace import read_trace
    from kvbound.trace.statistics import trace_info

    with console.Bar(quiet=quiet) as bar:
        measured = trace_info(read_trace(trace), bar)
    if as_json:
        console.show_json({"schema": "kvbound.trace-info/1"} | measured.to_mapping())
    else:
        console.show(*describe(measured, layers=layers))


def synth(
    out: options.OutTrace,
    layers: Annotated[int, typer.Option(metavar="N", min=1, help="Number of layers.")],
    prefill: Annotated[int, typer.Option(metavar="N", min=1, help="Number of prompt tokens.")],
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Number of decode steps.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="Generator: dense, fang2025, random-swap, recorded-like.")
    ] = "fang2025",
    sparsity: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Share of the past tokens that is not read.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the kind, such as variation=10%; repeatable."
        ),
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Make a synthetic trace."""
    from kvbound.trace.folder import new_folder
    from kvbound.workloads.make import write_folder

    fields: dict[str, Any] = {
        "kind": kind,
        "layers": layers,
        "prefill_tokens": prefill,
        "decode_steps": steps,
    }
    fields |= {"seed": seed} | ({} if sparsity is None else {"sparsity": sparsity})
    for key, text in source.pairs("--set", settings or ()):
        if key in fields:
            raise UsageError(f"--set: {key} is given twice")
        fields[key] = source.literal(text)
    spec = _spec(fields)
    with console.Bar(quiet=quiet) as bar, new_folder(out) as folder:
        write_folder(spec, folder, bar)
    _note_written(out, spec, quiet)


def _spec(fields: dict[str, Any]) -> Synthetic:
    from kvbound import workloads

    try:
        return workloads.from_mapping(fields, file="synth")
    except InputError as error:
        raise UsageError(f"{error.field}: expected {error.expected}") from None


def batch(
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE...", help="Trace folders or CSV files, one sequence each.")
    ],
    out: options.OutTrace,
    starts: Annotated[
        str | None,
        typer.Option(
            metavar="STEP,...", help="First step of each sequence, the earliest 0; by default all begin at 0."
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Combine sequences that are decoded together into one trace.

    The whole prompt of a sequence that begins later is born in the step before its first; the tokens of each
    sequence end in its last step.
    """
    from kvbound.trace import read_trace, write_trace
    from kvbound.trace.batch import batch as combine
    from kvbound.trace.folder import check_target

    check_target(out)
    first = None if starts is None else options.counts("--starts", starts, 0)
    with console.Bar(quiet=quiet) as bar:
        opened = [read_trace(path) for path in traces]
        try:
            combined = combine(opened, first, bar)
        except UsageError as error:
            raise UsageError(f"{', '.join(map(str, traces))}: {error}") from None
        write_trace(combined, out)
    _note_written(out, combined, quiet)


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="CSV", help="CSV file with columns n,l,read_kv, or its .gz.")
    ],
    out: options.OutTrace,
    origin: Source = "",
    licence: Licence = "",
    quiet: options.Quiet = False,
) -> None:
    """Turn a CSV file into a trace folder."""
    from kvbound.trace import import_csv

    with console.Bar(quiet=quiet) as bar:
        trace = import_csv(file, out, source=origin, licence=licence, progress=bar)
    _note_written(out, trace, quiet)


def export(
    trace: TracePath,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="CSV", help="CSV file to write; compressed if it ends in .gz."),
    ],
    quiet: options.Quiet = False,
) -> None:
    """Write a trace as CSV (n,l,read_kv)."""
    from kvbound.trace import read_trace, write_csv

    output.check_file("--out", out, stream=True)
    opened = read_trace(trace)
    with console.Bar(quiet=quiet) as bar:
        write_csv(opened, output.place(out), progress=bar)
    _note_written(out, opened, quiet)


def sparsify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace with attention mass, or a recording (.npz).")
    ],
    out: options.OutTrace,
    share: Annotated[str, typer.Option(metavar="SHARE", help="Share of the past tokens, such as 15%.")],
    sequence: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="For a recording: number of the sequence, from 0.")
    ] = None,
    prefill: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="For a recording: position of the first step.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="For a recording: number of steps; by default all.")
    ] = None,
    origin: Source = "",
    licence: Licence = "",
    quiet: options.Quiet = False,
) -> None:
    """Keep the reads with the largest attention.

    The input is a trace with attention mass, or a recording: an .npz archive with q and k, or with p.
    """
    from kvbound.recording import attention
    from kvbound.trace import read_trace, write_trace
    from kvbound.trace.folder import check_target

    check_target(out)
    kept = options.share("--share", share)
    if file.suffix == ".npz":
        if prefill is None:
            raise UsageError("a recording needs --prefill, the position of the first step")
        trace = attention.from_qk(
            file, sequence or 0, prefill, kept, steps=steps, source=origin, licence=licence
        )
    else:
        if not (sequence is None and prefill is None and steps is None and not origin and not licence):
            raise UsageError(
                "--sequence, --prefill, --steps, --source and --licence go with a recording (.npz)"
            )
        trace = attention.sparsify(read_trace(file), kept)
    write_trace(trace, out)
    _note_written(out, trace, quiet)
    wanted = [attention.count(kept, trace.prefill_tokens + step) for step in range(trace.decode_steps)]
    short = int((wanted > trace.counts().T).sum())
    if short:
        slots = f"{short:,} of {trace.decode_steps * trace.layers:,} slots"
        console.note(f"{file} has fewer reads than requested in {slots}; these keep all of them", quiet=quiet)


def _note_written(path: Path, trace: Trace | Synthetic, quiet: bool) -> None:
    from kvbound.report.numbers import shape

    size = shape(trace.layers, trace.prefill_tokens, trace.decode_steps, trace.tokens)
    console.note(f"wrote {path}: {size}", quiet=quiet)
