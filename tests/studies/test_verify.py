"""Damaged cells are input errors, cells with false claims are rejected, and neither are printed."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.errors import InputError, RejectedError, UsageError
from kvbound.studies import Scale, runs
from kvbound.studies.fang2025 import STUDY, Cell
from kvbound.studies.record import (
    Settings,
    certificate_name,
    digest,
    file_hash,
    ratios,
    read_record,
    schedule_name,
)
from kvbound.studies.runs import run_cells

TINY = Settings(STUDY, Scale("tiny", 512, 32, 1.0), 0, 0.4)
SMALL = Cell("high", hbm=18)
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    -1e308,
    10**400,
    "",
    "text",
    "\ud800",
    "\x1b[2J",
    [],
    [None],
    {},
    {"\ud800": 1},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    list(run_cells([SMALL], TINY, folder))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the cell, which must not be run again."""

    def must_not_run(cell: Cell, *_: Any) -> Any:
        raise AssertionError(cell.name)

    monkeypatch.setattr(runs, "run_cell", must_not_run)
    shutil.copytree(made, tmp_path / "study")
    return tmp_path / "study"


def place(folder: Path) -> Path:
    return folder / "cells" / f"{SMALL.name}.json"


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the record and update its hash."""
    record = json.loads(place(folder).read_text())
    change(record)
    record["sha256"] = digest(record)
    place(folder).write_text(json.dumps(record))


def resumed(folder: Path) -> list[dict[str, Any]]:
    return list(run_cells([SMALL], TINY, folder))


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from paths(item, (*above, key))


def put(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    at: Any = record
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value


def test_unchanged_cells_are_accepted(folder: Path) -> None:
    assert resumed(folder) == [json.loads(place(folder).read_text())]


def test_an_edited_record_is_damaged(folder: Path) -> None:
    record = json.loads(place(folder).read_text())
    record["physical"]["static"]["time_s"] *= 99
    place(folder).write_text(json.dumps(record))
    with pytest.raises(InputError, match="sha256"):
        resumed(folder)


@pytest.mark.parametrize("name", [certificate_name(SMALL.name), schedule_name(SMALL.name, "pricing")])
def test_a_damaged_or_missing_file_is_named(folder: Path, name: str) -> None:
    file = folder / "cells" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        resumed(folder)
    file.unlink()
    with pytest.raises(InputError, match="readable"):
        resumed(folder)


def test_every_changed_number_is_rejected(folder: Path) -> None:
    """Even with a matching hash."""
    text = place(folder).read_text()
    record = json.loads(text)
    for path in paths(record):
        value: Any = record
        for key in path:
            value = value[key]
        if path[0] == "settings" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        place(folder).write_text(text)
        forge(folder, lambda each, path=path, value=value: put(each, path, value * 1.01 + 1))  # type: ignore[misc]
        with pytest.raises((RejectedError, InputError)):
            resumed(folder)


def consistent(record: dict[str, Any]) -> None:
    """Recompute the fields that follow from the times."""
    times = {name: entry["time_s"] for name, entry in record["physical"].items()}
    record |= ratios(times, record["bound_s"])


@pytest.mark.parametrize(
    ("field", "factor"), [("bound_s", 1.0001), ("static", 99), ("belady", 0.999), ("anneal", 0.9999)]
)
def test_a_consistent_forgery_is_rejected(folder: Path, field: str, factor: float) -> None:
    def change(record: dict[str, Any]) -> None:
        at, key = (record, field) if field in record else (record["physical"][field], "time_s")
        at[key] *= factor
        consistent(record)

    forge(folder, change)
    with pytest.raises(RejectedError, match=field):
        resumed(folder)


@pytest.mark.parametrize(
    ("name", "field"),
    [(certificate_name(SMALL.name), "bound_s"), (schedule_name(SMALL.name, "anneal"), "anneal")],
)
def test_the_proof_of_a_claim_must_exist_and_prove_it(folder: Path, name: str, field: str) -> None:
    file, text = folder / "cells" / name, place(folder).read_text()
    forge(folder, lambda record: record["files"].pop(name))
    with pytest.raises(RejectedError, match=f"{field}.* but there is no"):
        resumed(folder)
    with np.load(file) as archive:
        arrays = dict(archive)
    with file.open("wb") as out:
        np.savez(
            out, **{key: value * 0 if value.dtype.kind in "iu" else value for key, value in arrays.items()}
        )
    place(folder).write_text(text)
    hashed = {name: file_hash(file)}
    forge(folder, lambda record: record["files"].update(hashed))
    with pytest.raises(RejectedError, match=name):
        resumed(folder)


def test_a_cell_too_large_to_rerun_must_be_consistent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    assert len(resumed(folder)) == 1
    forge(folder, lambda record: put(record, ("gap",), record["gap"] / 2))
    with pytest.raises(RejectedError, match="gap"):
        resumed(folder)


def fuzz(folder: Path, count: int) -> None:
    """Change random fields, with a matching hash in every other case."""
    draw, text = random.Random(0), place(folder).read_text()
    record = json.loads(text)
    fields = [path for path in paths(record) if path != ("settings", "time_limit_s")]
    for number in range(count):
        path, value = draw.choice(fields), copy.deepcopy(draw.choice((*WRONG, ...)))
        place(folder).write_text(text)
        forge(folder, lambda each: put(each, path, value))  # noqa: B023
        if number % 2:
            place(folder).write_text(
                place(folder).read_text().replace(digest(read(folder)), record["sha256"])
            )
        if {**read(folder), "sha256": record["sha256"]} == record:  # 0 for 0.0
            continue
        with pytest.raises((InputError, RejectedError, UsageError)):
            resumed(folder)
        cut = draw.randrange(len(text))
        place(folder).write_text(text[:cut] + draw.choice(("", text[cut + 1 :], "\x00", "}")))
        if not unchanged(folder, record):
            with pytest.raises(InputError):
                read_record(place(folder), STUDY)


def unchanged(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the change only removed a blank."""
    try:
        return read(folder) == record
    except ValueError:
        return False


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(place(folder).read_text())
    return record


def test_a_mutated_cell_ends_in_a_sentence(folder: Path) -> None:
    fuzz(folder, 60)


@pytest.mark.slow
def test_many_mutated_cells_end_in_a_sentence(folder: Path) -> None:
    fuzz(folder, 2000)
