"""``kvbound instance``: make and inspect instances."""

from __future__ import annotations

from typing import Annotated

import typer

from kvbound.cli import console, options, output, source
from kvbound.initial import require_room


def list_(as_json: options.Json = False) -> None:
    """List the library and its best known values."""
    from kvbound.library import entries
    from kvbound.report.library import library_table

    known = entries()
    if as_json:
        console.show_json({"schema": "kvbound.library/1", "instances": [each.to_mapping() for each in known]})
    else:
        console.show(library_table(known))


def info(
    instance: options.Instance,
    objective: options.Objective = None,
    override: options.Overrides = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print sizes and capacities."""
    from kvbound.report.instance import describe, figures

    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    if as_json:
        console.show_json({"schema": "kvbound.instance-info/1"} | figures(case))
    else:
        console.show(*describe(case))


def validate(
    instance: options.Instance,
    objective: options.Objective = None,
    override: options.Overrides = None,
    quiet: options.Quiet = False,
) -> None:
    """Check an instance and its trace.

    Exits with 3 if it is not valid, with 4 if nothing fits.
    """
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    require_room(case)
    console.show(f"{case.name}: a valid instance")


def make(
    out: options.OutFile,
    memory: options.Memory = None,
    llm: options.Llm = None,
    trace: options.Trace = None,
    capacity: options.Capacity = None,
    rule: options.RulePairs = None,
    objective: options.Objective = None,
    override: options.Overrides = None,
    kv_dtype: options.KvDtype = None,
    weight_dtype: options.WeightDtype = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the instance; by default that of the file.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Assemble an instance and write it.

    The trace is written beside it, unless it is synthetic.
    """
    from kvbound.instance_io import write_instance

    output.check_file("--out", out)
    parts = source.Parts(memory, llm, trace, capacity, rule, override, kv_dtype, weight_dtype, objective)
    case = source.assemble(parts, name or out.stem)
    source.warn_of_capacity(case, quiet)
    write_instance(case, out)
    console.note(f"wrote {out}", quiet=quiet)


def expand(
    instance: options.Instance,
    out: options.OutFile,
    objective: options.Objective = None,
    override: options.Overrides = None,
    quiet: options.Quiet = False,
) -> None:
    """Write an instance in the checker's form.

    It states every number; the trace is written beside it.
    """
    from kvbound.instance_io import write_expanded

    output.check_file("--out", out)
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    write_expanded(case, out)
    console.note(f"wrote {out} ({case.sha256})", quiet=quiet)
