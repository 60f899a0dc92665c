"""``kvbound pareto``: schedules between least time and least energy, each with a certified bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kvbound.cli import complete, console, options, output, source

if TYPE_CHECKING:
    from kvbound.front import Front


def pareto(
    instance: options.Instance,
    points: Annotated[
        int, typer.Option(metavar="N", min=2, max=1000, help="Choices of weights, the two ends included.")
    ] = 5,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="A method that finds schedules; by default as 'kvbound solve' chooses.",
            autocompletion=complete.methods,
        ),
    ] = None,
    override: options.Overrides = None,
    time_limit: options.TimeLimit = None,
    work: options.Work = None,
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Trade decode time for energy: sweep the weights of both.

    Each point has a schedule and a certified bound of its mix; together the bounds limit the whole front.
    Limits hold for each point, and again for its bound where the method's own is not certified.
    """
    from kvbound.front import pareto as sweep
    from kvbound.report.front import front_table, verdict

    limits = options.limits(time_limit, work)
    output.check_folder(out)
    case = source.load(instance, source.Parts(overrides=override), quiet=quiet)
    with console.Bar(quiet=quiet) as bar:
        found = sweep(case, points, method, seed=seed, kernel=kernel, progress=bar, **limits)
    unsaved = output.save_front(found, out)
    document = found.to_json()
    if as_json:
        console.show_json(document)
    else:
        console.show(front_table(document["points"]), "\n" + verdict(document["points"]))
    _finish(found, unsaved)


def _finish(front: Front, unsaved: OSError | None) -> None:
    """Raise what gives the exit code."""
    if unsaved is not None:
        raise unsaved
    if front.interrupted:
        raise KeyboardInterrupt
