"""What solve, simulate and compare do with their results: save, print, set the exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvbound.cli import console
from kvbound.errors import InfeasibleError, UsageError

if TYPE_CHECKING:
    from kvbound.instance import Instance
    from kvbound.result import Result


def check_folder(path: Path | None) -> None:
    """Find out before the work that its results could not be written.

    Raises
    ------
    UsageError
        Something other than a folder is there.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise UsageError(f"--out: expected a folder, but {path} is a file")


def check_file(option: str, path: Path | None) -> None:
    """Find out before the work that a file could not be written.

    Raises
    ------
    UsageError
        A folder is there, or something else where its folder would be.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option}: expected a file, but {path} is a folder")
    if path.parent.exists() and not path.parent.is_dir():
        raise UsageError(f"{option}: expected a file in a folder, but {path.parent} is a file")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the block, which saves something, is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@uninterrupted()
def save(result: Result, folder: Path) -> None:
    """Write result.json, and schedule.npz and certificate.npz where there are such."""
    from kvbound import fang2025
    from kvbound.instance_io import write_json
    from kvbound.schedule import write_schedule
    from kvbound.solvers.certificate import write_certificate

    place, sha256 = folder / "schedule.npz", result.instance.sha256
    if result.schedule is not None and sha256 is not None:
        steps = result.instance.decode_steps
        write_schedule(result.schedule, place, instance_sha256=sha256, decode_steps=steps)
    elif result.residency is not None and sha256 is not None:
        result.residency.write(place, instance_sha256=sha256)
    elif result.run is not None and sha256 is not None:
        fang2025.write_log(result.run, sha256, place)
    else:
        place.unlink(missing_ok=True)  # an earlier run's would not belong to this result
    proof = folder / "certificate.npz"
    if result.certificate is not None:
        write_certificate(result.certificate, proof)
    else:
        proof.unlink(missing_ok=True)
    write_json(result.to_json(), folder / "result.json")


def show(result: Result) -> None:
    """Print one result for people."""
    from kvbound.report.result import describe, heading

    console.show(heading(result), describe(result))


def finish(instance: Instance, result: Result) -> None:
    """Turn the way a run ended into the exit code.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted; what it had found is printed and saved by now.
    InfeasibleError
        There is no placement.
    """
    if result.termination.reason == "interrupted":
        raise KeyboardInterrupt
    if result.status == "infeasible":
        _ = instance.room  # says why
        why = result.termination.reason
        told = why not in ("done", "infeasible")
        raise InfeasibleError(why if told else f"{instance.name}: no placement satisfies its rules")
