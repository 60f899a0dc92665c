"""``kvbound check``: the independent checker."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import console, options, output, source
from kvbound.errors import InputError, RejectedError
from kvbound.fields import Fields, show
from kvbound.reading import read_json

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
        typer.Argument(
            metavar="FILE", help="A schedule, a certificate, a tree of them, or a folder written by --out."
        ),
    ],
    objective: options.Objective = None,
    override: options.Overrides = None,
    as_json: options.Json = False,
) -> None:
    """Check a schedule or a certificate independently.

    The checker replays a schedule with separate code, verifies every rule and recomputes the time; for a
    certificate, or a tree of certificates, it recomputes the bound. In a folder it also verifies every claim
    in result.json, and in the folder of a comparison or of a front all of its results. For the folder of a
    reproduced study, give the study as INSTANCE: every cell is verified in the same way, and the tables are
    recomputed.
    """
    from kvbound.studies import STUDIES

    if instance in STUDIES:
        _study(file, as_json=as_json)
        return
    case = source.load(instance, source.Parts(overrides=override, objective=objective), quiet=True)
    several = (file / output.COMPARISON).is_file() or (file / output.FRONT).is_file()
    if (file / output.COMPARISON).is_file():
        reports = _comparison(case, file)
    elif several:
        reports = _front(case, file)
    else:
        reports = _folder(case, file) if file.is_dir() else {file: _replayed(case, file)}
    if as_json and several:
        found = {str(path): report.to_mapping() for path, report in reports.items()}
        ok = all(report.ok for report in reports.values())
        console.show_json({"schema": "kvbound.comparison-report/1", "ok": ok, "reports": found})
    elif as_json:
        # the schedule's report, or else the certificate's, contains the others under the names of their files
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
    """Return the checker's report on a schedule or a certificate."""
    from kvbound.checker import check as replay

    if not path.is_file():
        raise InputError(path, "", "a schedule or certificate file, but it is missing")
    if not zipfile.is_zipfile(path):
        expected = "a schedule or certificate file (.npz), but it is truncated or something else"
        raise InputError(path, "", expected)
    report = replay(case.expanded(), case.token_trace.arrays, path)
    if report.unreadable:
        raise InputError(path, "", f"a schedule or certificate of this instance; {report.problems[0]}")
    return report


def _folder(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    """Check an output folder: its schedule, its certificate, and the claims of its result."""
    place = folder / output.RESULT
    document, reports = read_json(place), _proofs(case, folder)
    claims = _claims(case, place, document, reports)
    if claims.ok and not reports and document["bound"]["status"] == "claimed" and document["time_s"] is None:
        expected = "a schedule or certificate file; without one there is nothing to check"
        raise InputError(folder / output.SCHEDULE, "", expected)
    _note_unproved([document])
    return reports | {place: claims}


def _comparison(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    """Check the folder of every method, and the claims of compare.json and of the CSV file."""
    from kvbound.checker import Report
    from kvbound.report.comparison import SCHEMA, csv_text

    place = folder / output.COMPARISON
    fields = Fields(read_json(place), place)
    if fields.text("schema") != SCHEMA:
        raise fields.error("schema", f"{SCHEMA!r}, not {show(fields.raw('schema'))}")
    results = list(fields.items("results"))
    reports = _folder(case, folder) if (folder / output.RESULT).is_file() else dict[Path, Report]()
    problems = list[str]()
    for number, result in enumerate(results):
        method = Fields(result, place, f"results.{number}").text("method")
        if method == ".." or Path(method).name != method:
            raise InputError(place, f"results.{number}.method", f"the name of a folder, not {show(method)}")
        proofs, own = _proofs(case, folder / method), folder / method / output.RESULT
        found = _claims(case, place, result, proofs, above=f"results.{number}.")
        problems += [f"{method}: {problem}" for problem in found.problems]
        reports |= proofs | {own: _claims(case, own, read_json(own), proofs)}
    table = folder / output.TABLE
    if not table.is_file() or table.read_bytes() != csv_text(results).encode():
        problems.append(f"{table.name} does not follow from it")
    _note_unproved(results)
    return reports | {place: Report(SCHEMA, tuple(problems))}


def _front(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    """Check every point of a front under its own objective, and the numbers of pareto.json and its table."""
    from kvbound.checker import Report
    from kvbound.front import SCHEMA, with_figures
    from kvbound.objective import Objective
    from kvbound.report.front import csv_text

    place, problems, reports = folder / output.FRONT, list[str](), dict[Path, Report]()
    fields = Fields(read_json(place), place)
    if fields.text("schema") != SCHEMA:
        raise fields.error("schema", f"{SCHEMA!r}, not {show(fields.raw('schema'))}")
    points = list(fields.items("points"))
    for number, point in enumerate(points, 1):
        given, own = Fields(point, place, f"points.{number - 1}"), folder / f"point-{number}"
        goal = Objective.from_mapping(given.raw("objective"), place, given.at("objective"))
        instance, result = dataclasses.replace(case, objective=goal), given.raw("result")
        proofs = _proofs(instance, own)
        found = _claims(instance, place, result, proofs, above=f"{given.at('result')}.")
        reports |= proofs | {own / output.RESULT: found}
        if result != read_json(own / output.RESULT):
            problems.append(f"{own.name} has another result")
    if points != with_figures(points):
        problems.append("the numbers of its points do not follow from their results")
    table = folder / output.FRONT_TABLE
    if not table.is_file() or table.read_bytes() != csv_text(points).encode():
        problems.append(f"{table.name} does not follow from it")
    return reports | {place: Report(SCHEMA, tuple(problems))}


def _proofs(case: kvbound.instance.Instance, folder: Path) -> dict[Path, Report]:
    places = (folder / name for name in (output.SCHEDULE, output.CERTIFICATE, output.PROOF))
    return {place: _replayed(case, place) for place in places if place.exists()}


def _claims(
    case: kvbound.instance.Instance,
    place: Path,
    document: object,
    proofs: Mapping[Path, Report],
    above: str = "",
) -> Report:
    """Check a result's claims; `above` is the path of the result within its file."""
    from kvbound.checker import Malformed, check_result

    beside = {path.stem: report for path, report in proofs.items()}
    try:
        labels = case.workload.timeline.sequence
        return check_result(case.expanded(), case.token_trace.arrays, document, labels=labels, **beside)
    except Malformed as error:
        raise InputError(place, f"{above}{error.field}".rstrip("."), error.expected) from None


def _note_unproved(results: Iterable[Mapping[str, Any]]) -> None:
    """Print a remark that names the solvers whose bounds no certificate proves."""
    bounds = [result["bound"] for result in results]
    names = sorted({str(bound["method"]) for bound in bounds if bound["status"] == "claimed"})
    if names:
        console.note(f"the bounds claimed by {', '.join(names)} are not verified: no certificate proves them")


def _study(folder: Path, *, as_json: bool) -> None:
    """Verify the folder of 'kvbound reproduce --out'."""
    from kvbound.studies.folder import check_folder, unproved

    with console.Bar() as bar:
        problems = check_folder(folder, bar)
    if large := unproved(folder):
        reason = "are not verified, since schedules of this size are not kept"
        console.note(f"the times of pricing and anneal in {', '.join(large)} {reason}")
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
    from kvbound.report.tables import pairs_table

    console.show(f"{path}: {'accepted' if report.ok else 'rejected'}")
    for problem in report.problems:
        console.show(f"- {problem}")
    if report.bound_s is not None:
        name, bound = "time lower bound", f"{numbers.seconds(report.bound_s)} ({report.bound_s!r} s)"
        if not report.time_alone:
            name, bound = "lower bound of the objective", f"{report.bound_s!r}"
        console.show(pairs_table([(name, f"{bound}, recomputed")]))
    if report.time_s is None:
        return
    names = [tier.name for tier in instance.memory.tiers]
    pairs = [("time", f"{numbers.seconds(report.time_s)} ({report.time_s!r} s)")]
    if report.objective is not None:
        pairs.append(("objective", f"{report.objective!r}"))
    if report.hit_bytes is not None and report.hit_bytes.sum() > 0:
        shares = report.hit_bytes / report.hit_bytes.sum()
        hits = ", ".join(f"{name} {numbers.share(x)}" for name, x in zip(names, shares, strict=True))
        pairs.append(("hit rate", hits))
    if report.mean_alpha is not None:
        pairs.append(("with weights", numbers.share(report.mean_alpha)))
    if report.peak_bytes is not None:
        peaks = zip(names, report.peak_bytes, strict=True)
        pairs.append(("peak", ", ".join(f"{name} {numbers.size(size)}" for name, size in peaks)))
    console.show(pairs_table(pairs))
