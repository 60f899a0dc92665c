"""``kvbound check``: the independent checker."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import console, options, source
from kvbound.errors import InputError, RejectedError

if TYPE_CHECKING:
    import kvbound.instance
    from kvbound.checker import Report


def check(
    instance: options.Instance,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A schedule, a certificate, or a folder of 'solve --out' with its claimed time.",
        ),
    ],
    override: options.Overrides = None,
    as_json: options.Json = False,
) -> None:
    """Have a schedule or a certificate checked independently.

    The checker replays a schedule with code of its own, verifies every rule and costs it again; of a
    certificate it recomputes the bound. Where a folder has both, the schedule's JSON holds the certificate's.
    """
    from kvbound.checker import check as replay

    claims = _claims(file) if file.is_dir() else {file: None}
    for path in claims:
        if not path.is_file():
            raise InputError(path, "", "a schedule or certificate file, but it is missing")
        if not zipfile.is_zipfile(path):
            expected = "a schedule or certificate file (.npz), but it is truncated or something else"
            raise InputError(path, "", expected)
    case = source.load(instance, source.Parts(overrides=override), quiet=True)
    reports = {
        path: replay(case.expanded(), case.trace.rows, path, claimed_s=claim)
        for path, claim in claims.items()
    }
    if as_json:
        first, *others = (report.to_mapping() for report in reports.values())
        console.show_json(first | ({"certificate": others[0]} if others else {}))
    else:
        for path, report in reports.items():
            _show(case, path, report)
    for path, report in reports.items():
        if not report.ok:
            count = len(report.problems)
            raise RejectedError(f"the checker rejects {path}: {count} problem{'s' * (count > 1)}")


def _claims(folder: Path) -> dict[Path, float | None]:
    """What an output folder holds, a schedule first, and the time that its result claims for that.

    A certificate holds its own claim; the result's bound may be a stronger one of another method.
    """
    result, schedule, proof = (folder / name for name in ("result.json", "schedule.npz", "certificate.npz"))
    try:
        document: Any = json.loads(result.read_text(encoding="utf-8"))
        time = document["time_s"]
    except OSError as error:
        raise InputError(result, "", f"a readable file: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(result, "time_s", "a result of 'kvbound solve --out'") from None
    if time is not None and (isinstance(time, bool) or not isinstance(time, (int, float))):
        raise InputError(result, "time_s", f"a number, not {time!r}")
    claims: dict[Path, float | None] = {schedule: time, proof: None}
    return {path: claim for path, claim in claims.items() if path.exists()} or {schedule: None}


def _show(instance: kvbound.instance.Instance, path: Path, report: Report) -> None:
    from kvbound.report import numbers
    from kvbound.report.tables import facts

    console.show(f"{path}: {'accepted' if report.ok else 'rejected'}")
    for problem in report.problems:
        console.show(f"- {problem}")
    if report.bound_s is not None:
        bound = f"{numbers.seconds(report.bound_s)} ({report.bound_s!r} s), recomputed"
        console.show(facts([("time lower bound", bound)]))
    if report.time_s is None:
        return
    names = [tier.name for tier in instance.memory.tiers]
    pairs = [("time", f"{numbers.seconds(report.time_s)} ({report.time_s!r} s)")]
    if report.hit_bytes is not None and report.hit_bytes.sum() > 0:
        shares = report.hit_bytes / report.hit_bytes.sum()
        hits = ", ".join(f"{name} {numbers.share(x)}" for name, x in zip(names, shares, strict=True))
        pairs.append(("hit rate", hits))
    if report.mean_alpha is not None:
        pairs.append(("with weights", numbers.share(report.mean_alpha)))
    if report.peak_bytes is not None:
        peaks = zip(names, report.peak_bytes, strict=True)
        pairs.append(("peak", ", ".join(f"{name} {numbers.size(size)}" for name, size in peaks)))
    console.show(facts(pairs))
