"""``kvbound bound``: a certified time lower bound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kvbound.cli import console, options, output, source


def bound(
    instance: options.Instance,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the certificate there, for 'kvbound check'.")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of the items sampled in each step; above a fifth, all."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Continue from this certificate of the instance.")
    ] = None,
    objective: options.Objective = None,
    override: options.Overrides = None,
    time_limit: options.TimeLimit = None,
    work: options.Work = None,
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove a time lower bound, and check it independently."""
    from kvbound import solvers
    from kvbound.certificate import read_certificate, write_certificate

    extra: dict[str, Any] = {} if sample is None else {"sample": options.share("--sample", sample)}
    extra |= options.limits(time_limit, work)
    output.check_file("--certificate", certificate)
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=quiet)
    if resume is not None:
        extra["resume"] = read_certificate(resume, case)
    with console.Bar(quiet=quiet) as bar:
        result = solvers.solve(case, "dual", seed=seed, kernel=kernel, progress=bar, **extra)
    place, proof, unsaved = None, result.certificate, None
    if certificate is not None and proof is not None:
        unsaved = output.attempt(lambda: write_certificate(proof, certificate))
        place = None if unsaved else str(certificate)
    if as_json:
        console.show_json(result.to_json() | {"certificate": place})
    else:
        output.show(result)
    output.finish(result, unsaved)
