"""Results of commands: check targets early, save, print, and set the exit code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbound.cli import console
from kvbound.cli.interrupts import uninterrupted
from kvbound.errors import InfeasibleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kvbound.front import Front
    from kvbound.instance import Instance
    from kvbound.result import Result

RESULT, SCHEDULE, CERTIFICATE, PROOF = FILES = (
    "result.json", "schedule.npz", "certificate.npz", "proof.npz",
)  # fmt: skip
"""The files in the folder of one result."""
COMPARISON, TABLE = "compare.json", "compare.csv"
"""The files in the folder of a comparison, beside one folder for each method."""
FRONT, FRONT_TABLE = "pareto.json", "pareto.csv"
"""The files in the folder of a front, beside one folder for each point."""
ACCURACY, ACCURACY_TABLE = "accuracy.json", "accuracy.csv"
"""The files in the folder of measured accuracies."""
_STDOUT = Path("/dev/stdout")


def check_folder(path: Path | None, option: str = "--out") -> None:
    """Check, before a run, that its results can be written to a folder.

    Raises
    ------
    UsageError
        There is something other than a folder, or the path means standard output.
    OSError
        Nothing can be written there.
    """
    from kvbound.files import check_writable

    if path is None:
        return
    if str(path) == "-":
        raise UsageError(f"{option}: expected a folder; several files do not fit standard output")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option}: expected a folder, but {path} is a file")
    check_writable(path)


def check_file(option: str, path: Path | None, *, stream: bool = False) -> None:
    """Check, before a run, that a file can be written.

    Parameters
    ----------
    stream
        Whether the file is the command's only output, so that ``-`` may mean standard output.

    Raises
    ------
    UsageError
        There is a folder, its parent is not a folder, or the path means standard output without `stream`.
    OSError
        Nothing can be written there.
    """
    from kvbound.files import check_writable

    if path is None or (stream and str(path) == "-"):
        return
    if str(path) == "-":
        raise UsageError(f"{option}: expected a file; this does not go to standard output")
    if path.is_dir():
        raise UsageError(f"{option}: expected a file, but {path} is a folder")
    if path.parent.exists() and not path.parent.is_dir():
        raise UsageError(f"{option}: expected a file in a folder, but {path.parent} is a file")
    check_writable(path)


def place(path: Path) -> Path:
    """Return the path for a command's only output, where ``-`` means standard output."""
    return _STDOUT if str(path) == "-" else path


def check_same(instance: Instance, folder: Path | None, *, each: bool = False) -> None:
    """Refuse, before a run, to write into a folder with results of another instance.

    Parameters
    ----------
    each
        Whether the folder will have, or has from an earlier comparison, a folder for each method.

    Raises
    ------
    UsageError
        The folder holds a result, or a comparison, of another instance.
    """
    from kvbound.errors import InputError
    from kvbound.reading import read_json

    if folder is None or not folder.is_dir():
        return
    inside = [path / RESULT for path in folder.iterdir()] if each or (folder / COMPARISON).exists() else []
    for place in [folder / RESULT, *inside]:
        if not place.is_file():
            continue
        try:
            earlier = read_json(place)["instance"]
            name, sha256 = earlier["name"], earlier["sha256"]
        except (InputError, TypeError, KeyError):
            continue  # not a result
        if sha256 is not None and sha256 != instance.sha256:
            raise UsageError(
                f"--out: {place} is the result of another instance, {name!r}; take another folder"
            )


def attempt(save: Callable[[], None]) -> OSError | None:
    """Call `save` with signals deferred; return its error, so that the result can be printed first."""
    try:
        with uninterrupted():
            save()
    except OSError as error:
        return error
    return None


def save(result: Result, folder: Path | None) -> OSError | None:
    """Write a result's folder if one is given; returns as `attempt`."""
    from kvbound.files import atomic_dir

    def write() -> None:
        if folder is not None:
            with atomic_dir(folder, owned=_in_result_folder, last=RESULT) as new:
                _write(result, new)

    return attempt(write)


def save_all(results: Sequence[Result], folder: Path | None) -> OSError | None:
    """Write a comparison's folder, with a folder for each method, if one is given; returns as `attempt`."""
    from kvbound.files import atomic_dir
    from kvbound.instance_io import write_json
    from kvbound.report import comparison

    def write() -> None:
        if folder is None:
            return
        with atomic_dir(folder, owned=_in_comparison_folder, last=COMPARISON) as new:
            for result in _each_with_proof(results):
                _write(result, new / result.method)
            document = comparison.document(results)
            text = comparison.csv_text(document["results"])
            (new / TABLE).write_text(text, encoding="utf-8", newline="")
            write_json(document, new / COMPARISON)

    return attempt(write)


def save_front(front: Front, folder: Path | None) -> OSError | None:
    """Write a front's folder, with a folder for each point, if one is given; returns as `attempt`."""
    from kvbound.files import atomic_dir
    from kvbound.instance_io import write_json
    from kvbound.report.front import csv_text

    def write() -> None:
        if folder is None:
            return
        with atomic_dir(folder, owned=_in_front_folder, last=FRONT) as new:
            for number, point in enumerate(front.points, 1):
                _write(point.result, new / f"point-{number}")
            document = front.to_json()
            text = csv_text(document["points"])
            (new / FRONT_TABLE).write_text(text, encoding="utf-8", newline="")
            write_json(document, new / FRONT)

    return attempt(write)


def save_accuracy(document: dict[str, Any], folder: Path | None) -> OSError | None:
    """Write the folder of measured accuracies if one is given; returns as `attempt`."""
    from kvbound.files import atomic_dir
    from kvbound.instance_io import write_json
    from kvbound.report.accuracy import csv_text

    def write() -> None:
        if folder is not None:
            names = ACCURACY, ACCURACY_TABLE
            with atomic_dir(folder, owned=lambda entry: entry.name in names, last=ACCURACY) as new:
                text = csv_text(document["results"])
                (new / ACCURACY_TABLE).write_text(text, encoding="utf-8", newline="")
                write_json(document, new / ACCURACY)

    return attempt(write)


def _in_front_folder(entry: Path) -> bool:
    if entry.is_dir() and not entry.is_symlink():
        return (entry / RESULT).is_file() and all(map(_in_result_folder, entry.iterdir()))
    return entry.name in (FRONT, FRONT_TABLE)


def _each_with_proof(results: Sequence[Result]) -> Iterator[Result]:
    """Yield the results, with another method's certificate or tree where that one proves their bound."""
    from kvbound.result import BoundStatus

    strongest = max(results, key=_proved, default=None)
    for result in results:
        missing = result.bound.status is BoundStatus.CERTIFIED and _proved(result) < (result.bound.value or 0)
        if strongest is None or not missing:
            yield result
        elif strongest.proof is not None:
            yield dataclasses.replace(result, proof=strongest.proof)
        else:
            yield dataclasses.replace(result, certificate=strongest.certificate)


def _proved(result: Result) -> float:
    """Return the largest bound in seconds that a result's own certificate or tree proves, 0 without one."""
    return max((each.bound_s for each in (result.certificate, result.proof) if each), default=0.0)


def _in_result_folder(entry: Path) -> bool:
    return entry.name in FILES and not entry.is_dir()


def _in_comparison_folder(entry: Path) -> bool:
    if entry.is_dir() and not entry.is_symlink():
        return (entry / RESULT).is_file() and all(map(_in_result_folder, entry.iterdir()))
    return entry.name in (TABLE, COMPARISON)


def _write(result: Result, folder: Path) -> None:
    """Write result.json and, where they exist, schedule, certificate and tree into a new folder."""
    from kvbound.certificate import write_certificate
    from kvbound.instance_io import write_json
    from kvbound.placement import write_placement
    from kvbound.tree import write_tree

    place, sha256, tokens = folder / SCHEDULE, result.instance.sha256, result.instance.ids
    if result.placement is not None and sha256 is not None:
        write_placement(result.placement, place, instance_sha256=sha256, tokens=tokens)
    if result.certificate is not None:
        write_certificate(result.certificate, folder / CERTIFICATE)
    if result.proof is not None:
        write_tree(result.proof, folder / PROOF)
    write_json(result.to_json(), folder / RESULT)


def show(result: Result) -> None:
    """Print one result in readable form."""
    from kvbound.report.result import describe, heading

    console.show(heading(result), describe(result))


def finish(result: Result, unsaved: OSError | None = None) -> None:
    """Raise the error that gives the exit code for the way a run ended.

    Raises
    ------
    OSError
        The error that `save` returned.
    KeyboardInterrupt
        The run was interrupted; what it found is already printed and saved.
    InfeasibleError
        There is no placement.
    """
    from kvbound.result import Reason, Status

    if unsaved is not None:
        raise unsaved
    if result.termination.reason is Reason.INTERRUPTED:
        raise KeyboardInterrupt
    if result.status is Status.INFEASIBLE:
        nothing = f"{result.instance.name}: no placement satisfies its rules"
        raise InfeasibleError(result.termination.message or nothing)
