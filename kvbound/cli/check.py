"""``kvbound check``: the independent checker."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvbound.cli import console, options, output, source
from kvbound.errors import InputError, RejectedError

if TYPE_CHECKING:
    import kvbound.instance
    from kvbound.checker import Report


def check(
    instance: Annotated[
        str,
        typer.Argument(
            metavar="INSTANCE",
            help="A file, a name from 'kvbound instance list', or a study.",
            autocompletion=options.complete.instances,
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A schedule, a certificate, or a folder that --out wrote."),
    ],
    override: options.Overrides = None,
    as_json: options.Json = False,
) -> None:
    """Have a schedule or a certificate checked independently.

    The checker replays a schedule with code of its own, verifies every rule and recomputes the time; of a
    certificate it recomputes the bound. In a folder it also verifies every claim in result.json, and in the
    folder of a comparison all of its results. For the folder of a reproduced study, give the study as
    INSTANCE: every cell is verified in the same way, and the tables are recomputed.
    """
    from kvbound.studies import STUDIES

    if instance in STUDIES:
        _study(file, as_json=as_json)
        return
    case = source.load(instance, source.Parts(overrides=override), quiet=True)
    if (file / output.COMPARISON).is_file():
        reports = _comparison(case, file)
    else:
        reports = _folder(case, file) if file.is_dir() else {file: _replayed(case, file)}
    if as_json and (file / output.COMPARISON).is_file():
        found = {str(path): report.to_mapping() for path, report in reports.items()}
        ok = all(report.ok for report in reports.values())
        console.show_json({"schema": "kvbound.comparison-report/1", "ok": ok, "reports": found})
    elif as_json:
        # the schedule's report (else the certificate's) holds the others, each under the name of its file
        first, *others = reports.items()
        ok = all(report.ok for report in reports.values())
        further = {path.stem: each.to_mapping() for path, each in others}
        console.show_json(first[1].to_mapping() | {"ok": ok} | further)
    else:
        for path, report in reports.items():
            _show(case, path, report)
    for path, report in reports.items():
        if not report.ok:
            raise _rejected(path, len(report.problems))


def _rejected(path: Path, count: int) -> RejectedError:
    return RejectedError(f"the checker rejects {path}: {count} problem{'s' * (count > 1)}")


def _replayed(case: kvbound.instance.Instance, path: Path) -> Report:
    """Have the checker replay a schedule or recompute a certificate."""
    from kvbound.checker import check as replay

    if not path.is_file():
        raise InputError(path, "", "a schedule or certificate file, but it is missing")
    if not zipfile.is_zipfile(path):
        expected = "a schedule or certificate file (.npz), but it is truncated or something else"
        raise InputError(path, "", expected)
    report = replay(case.expanded(), case.trace.rows, path)
    if report.unreadable:
        raise InputError(path, "", f"a schedule or certificate of this instance; {report.problems[0]}")
    return report


def _folder(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    """Check what an output folder holds: its schedule, its certificate, and what the result says of them."""
    from kvbound.checker import Malformed, check_result
    from kvbound.instance_io import read_json

    result, schedule, proof = (folder / name for name in (output.RESULT, output.SCHEDULE, output.CERTIFICATE))
    document = read_json(result)
    reports = {path: _replayed(case, path) for path in (schedule, proof) if path.exists()}
    beside = {"schedule": reports.get(schedule), "certificate": reports.get(proof)}
    try:
        claims = check_result(case.expanded(), case.trace.rows, document, **beside)
    except Malformed as error:
        raise InputError(result, error.field, error.expected) from None
    if claims.ok and not reports and document["bound"]["status"] == "claimed" and document["time_s"] is None:
        raise InputError(
            schedule, "", "a schedule or certificate file; without one there is nothing to check"
        )
    return reports | {result: claims}


def _comparison(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    """Check the folder of every method, and that compare.json holds the same results."""
    from kvbound.checker import Report
    from kvbound.instance_io import read_json
    from kvbound.report import comparison

    reports: dict[Path, Report] = {}
    places = sorted(place for place in (folder, *folder.iterdir()) if (place / output.RESULT).is_file())
    results = [read_json(place / output.RESULT) for place in places if place != folder]
    for place in places:
        if any((place / name).exists() for name in (output.SCHEDULE, output.CERTIFICATE)):
            reports |= _folder(case, place)
        else:
            console.note(f"{place}: neither a schedule nor a certificate to check")
    listed = read_json(folder / output.COMPARISON)
    expected = {"schema": comparison.SCHEMA, "results": sorted(results, key=str)}
    rows = listed.get("results") if isinstance(listed, dict) else None
    same = isinstance(rows, list) and listed | {"results": sorted(rows, key=str)} == expected
    problems = () if same else ("the results are not those in the folders beside it",)
    return reports | {folder / output.COMPARISON: Report(comparison.SCHEMA, problems)}


def _study(folder: Path, *, as_json: bool) -> None:
    """Verify the folder of 'kvbound reproduce --out'."""
    from kvbound.studies.folder import check_folder, unproved

    with console.Bar() as bar:
        problems = check_folder(folder, bar)
    if large := unproved(folder):
        told = "are not verified, since schedules of this size are not kept"
        console.note(f"the times of pricing and anneal in {', '.join(large)} {told}")
    if as_json:
        found = {str(path): list(each) for path, each in problems.items()}
        ok = not any(problems.values())
        console.show_json({"schema": "kvbound.study-report/1", "ok": ok, "problems": found})
    else:
        for path, each in problems.items():
            console.show(
                f"{path}: {'rejected' if each else 'accepted'}", *(f"- {problem}" for problem in each)
            )
    for path, each in problems.items():
        if each:
            raise _rejected(path, len(each))


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
