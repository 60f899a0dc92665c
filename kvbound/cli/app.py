"""The table of commands; each command's options and code are in its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from kvbound.cli import (
    accuracy,
    bound,
    catalog,
    check,
    compare,
    export,
    instance,
    limit,
    pareto,
    reload,
    reproduce,
    simulate,
    solve,
    trace,
)


def build() -> typer.Typer:
    """Return the whole command line."""
    app = _group("How good KV-cache placement can possibly get, proved, and how far policies are from it.")
    app.callback(invoke_without_command=True)(_root)
    app.command("solve")(solve.solve)
    app.command("bound")(bound.bound)
    app.command("compare")(compare.compare)
    app.command("simulate")(simulate.simulate)
    app.command("pareto")(pareto.pareto)
    app.command("limit")(limit.limit)
    app.command("reload")(reload.reload)
    app.command("accuracy")(accuracy.accuracy)
    app.command("reproduce")(reproduce.reproduce)
    app.command("check")(check.check)
    app.command("catalog")(catalog.catalog)
    app.command("export")(export.export)

    instances = _group("Make and inspect instances.")
    instances.command("list")(instance.list_)
    instances.command("info")(instance.info)
    instances.command("validate")(instance.validate)
    instances.command("make")(instance.make)
    instances.command("expand")(instance.expand)
    app.add_typer(instances, name="instance")

    traces = _group("Make, convert and inspect read traces.")
    traces.command("info")(trace.info)
    traces.command("synth")(trace.synth)
    traces.command("batch")(trace.batch)
    traces.command("import")(trace.import_)
    traces.command("export")(trace.export)
    traces.command("sparsify")(trace.sparsify)
    app.add_typer(traces, name="trace")
    return app


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help starts faster
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the versions and exit.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="With --version: also packages, kernel and cache.")
    ] = False,
) -> None:
    if version:
        from kvbound.cli.version import show

        show(verbose=verbose)
        raise typer.Exit
