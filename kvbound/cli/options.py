"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kvbound.cli import complete
from kvbound.errors import UsageError


class KernelName(StrEnum):
    """Implementations of the hot loops."""

    NUMPY = "numpy"
    NUMBA = "numba"


def seconds(option: str, text: str) -> float:
    """Read a time in seconds.

    Raises
    ------
    UsageError
        The text is not a time.
    """
    from kvbound.units import UnitError, parse_seconds

    try:
        return parse_seconds(text)
    except UnitError as error:
        raise UsageError(f"{option}: expected {error}") from None


def limits(time_limit: str | None, work: int | None) -> dict[str, Any]:
    """Return a solver's limits: a time, or instead an amount of work.

    Raises
    ------
    UsageError
        Both are given, or the time limit is not a time.
    """
    if time_limit is not None and work is not None:
        raise UsageError("--work takes the place of --time-limit: give one of them")
    return {"work": work, "time_limit": seconds("--time-limit", time_limit or "60")}


def share(option: str, text: str) -> float:
    """Read a share, such as ``1%`` or ``0.01``.

    Raises
    ------
    UsageError
        The text is not a share.
    """
    from kvbound.units import UnitError, parse_share

    try:
        return parse_share(text)
    except UnitError as error:
        raise UsageError(f"{option}: expected {error}") from None


def counts(option: str, text: str, least: int) -> list[int]:
    """Read a list of counts; raise a UsageError if one of them is none."""
    counts = [each.strip() for each in text.split(",")]
    if not all(
        each.isascii() and each.isdecimal() and len(each) < 12 and int(each) >= least for each in counts
    ):
        raise UsageError(
            f"{option}: expected whole numbers from {least} on, separated by commas, not {text!r}"
        )
    return [int(each) for each in counts]


def number_format(option: str, name: str | None) -> str | None:
    """Return the name of a number format after checking that it exists.

    Raises
    ------
    UsageError
        There is no such format.
    """
    from kvbound.llm.config.bits import FORMATS

    if name is not None and name not in FORMATS:
        raise UsageError(f"{option}: expected one of {', '.join(FORMATS)}, not {name!r}")
    return name


_INSTANCE_HELP = "A file, or a name from 'kvbound instance list'."

Instance = Annotated[
    str, typer.Argument(metavar="INSTANCE", help=_INSTANCE_HELP, autocompletion=complete.instances)
]
MaybeInstance = Annotated[
    str | None,
    typer.Argument(
        metavar="INSTANCE",
        help=_INSTANCE_HELP + " Or give --memory, --llm and --trace.",
        autocompletion=complete.instances,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress and no remarks.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random numbers.")]
TimeLimit = Annotated[
    str | None, typer.Option(metavar="S", help="Limit for each solver: seconds, 90s, 5min; by default 60 s.")
]
Work = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Amount of work in place of a time limit, for the same result on any machine and kernel: steps "
        "of the ascent (bound, pricing), moves per interval (anneal), nodes (exact).",
    ),
]
Kernel = Annotated[
    KernelName | None, typer.Option(help="Run hot loops in NumPy or numba; by default the fastest.")
]
OutDir = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results.")]
OutFile = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="File to write.")]
OutTrace = Annotated[Path, typer.Option("-o", "--out", metavar="TRACE", help="Trace folder to write.")]

Memory = Annotated[
    str | None,
    typer.Option(
        metavar="M",
        help="Catalog name, such as h100+ddr5+nvme5, or a JSON file.",
        autocompletion=complete.memories,
    ),
]
Llm = Annotated[
    str | None,
    typer.Option(
        metavar="LLM",
        help="Catalog name, or a JSON file: an llm or a model's config.json.",
        autocompletion=complete.llms,
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="With a config.json: format of the cache, such as fp8."),
]
WeightDtype = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="With a config.json: format of all weights, such as int4."),
]
Trace = Annotated[
    str | None,
    typer.Option(metavar="T", help="Trace folder, CSV, or JSON file with an instance's 'trace'."),
]
Capacity = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Capacity of the fastest tier: 23GiB, or 30% of the KV.")
]
RulePairs = Annotated[
    list[str] | None,
    typer.Option("--rule", metavar="KEY=VALUE", help="A rule, such as copies=exclusive; repeatable."),
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="O",
        help="What to minimise: time, energy, or weights per second and joule: time=1,energy=0.5.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override", metavar="PATH=VALUE", help="A field, such as memory.resources.hbm=3TB/s; repeatable."
    ),
]
