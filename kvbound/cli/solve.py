"""``kvbound solve``: one method on one instance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvbound.cli import complete, console, options, output, source
from kvbound.errors import LimitError, UsageError

if TYPE_CHECKING:
    from kvbound.result import Result


def solve(
    instance: options.Instance,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="A name from 'kvbound catalog method', a policy's name, or FILE.py:Class.",
            autocompletion=complete.methods,
        ),
    ] = None,
    time_limit: options.TimeLimit = None,
    work: options.Work = None,
    gap: Annotated[
        str | None, typer.Option(metavar="G", help="Stop at this relative gap, such as 1%.")
    ] = None,
    require_gap: Annotated[
        bool, typer.Option("--require-gap", help="Exit with 5 if --gap is not reached.")
    ] = False,
    start: Annotated[Path | None, typer.Option(metavar="FILE", help="A schedule to start from.")] = None,
    objective: options.Objective = None,
    override: options.Overrides = None,
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find a schedule, or a bound, with one method.

    Without --method: the exact model for small instances, else pricing together with its certified bound and,
    while the gap is above 1 %, annealing.
    """
    from kvbound import solvers
    from kvbound.binding import binding
    from kvbound.placement import read_placement
    from kvbound.report.binding import made_of, sentences
    from kvbound.result import Status

    wanted, limits = None if gap is None else options.share("--gap", gap), options.limits(time_limit, work)
    if require_gap and wanted is None:
        raise UsageError("--require-gap needs --gap")
    output.check_folder(out)
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    output.check_same(case, out)
    first = None if start is None else read_placement(start, case)
    with console.Bar(quiet=quiet) as bar:
        result = solvers.solve(
            case, method, gap=wanted, seed=seed, start=first,
            kernel=kernel, record=out is not None, progress=bar, **limits,
        )  # fmt: skip
    unsaved = output.save(result, out)
    if as_json:
        console.show_json(result.to_json())
    else:
        output.show(result)
        bound = None if result.status is Status.INFEASIBLE else binding(case)
        if bound is not None:
            console.show("\n" + sentences(case, bound), *made_of(case, result))
    output.finish(result, unsaved)
    if require_gap:
        _require(result, wanted or 0.0)


def _require(result: Result, wanted: float) -> None:
    from kvbound.report import numbers

    if result.gap is None:
        raise LimitError(f"{result.method} left no gap to compare with the required {numbers.gap(wanted)}")
    if result.gap > wanted:
        reached = numbers.gap(result.gap)
        raise LimitError(f"stopped at a gap of {reached}, above the required {numbers.gap(wanted)}")
