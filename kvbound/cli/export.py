"""``kvbound export``: the integer program as a file for other solvers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from kvbound.cli import console, options, output, source


class Format(StrEnum):
    """File formats of solvers."""

    MPS = "mps"
    LP = "lp"


def export(
    instance: options.Instance,
    out: options.OutFile,
    form: Annotated[Format, typer.Option("--format", help="File format.")] = Format.MPS,
    objective: options.Objective = None,
    override: options.Overrides = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the integer program to a file."""
    from kvbound.solvers.mip.export import export_model

    output.check_file("--out", out, stream=True)
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    size = export_model(case, output.place(out), form)
    console.note(f"wrote {out}: {size}", quiet=quiet)
