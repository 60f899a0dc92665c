import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kvbound.errors import InputError, UsageError
from kvbound.result import Reason, Termination
from kvbound.solvers.portfolio import solve
from kvbound.studies import Scale, runs
from kvbound.studies import cells as runner
from kvbound.studies.cells import run_cell
from kvbound.studies.fang2025 import PAPER, SCALES, STUDY, Cell
from kvbound.studies.record import CellRun, Settings, compare_published
from kvbound.studies.runs import run_cells
from kvbound.studies.study import POLICIES, SOLVERS

TINY = Settings(STUDY, Scale("tiny", 512, 32, 1.0), 0, 0.4)
SMALL, SLOW = Cell("high", hbm=18), Cell(hbm=25, link=64)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return run_cell(PAPER, TINY).record


def test_a_record_is_complete_json(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["fang2025"]) == {"static", "reactive", "page", "lookahead-one", "sa-guided", "best"}
    assert set(record["physical"]) == {*POLICIES, *SOLVERS}
    assert record["factors"] == {
        "variation": "low", "sparsity": 60, "hbm": 23, "link": 450, "layers": 32, "block": 1,
        "migration": "on-read",
    }  # fmt: skip
    assert record["settings"]["scale"] == "tiny"
    assert record["bound_status"] == "certified"


def test_bound_is_below_every_schedule(record: dict[str, Any]) -> None:
    times = {name: entry["time_s"] for name, entry in record["physical"].items()}
    assert record["ideal_s"] * (1 - 1e-9) <= record["bound_s"] <= min(times.values())
    assert times[record["best_found"]] == min(times.values())
    assert record["gap"] == 1 - record["bound_s"] / min(times.values())
    assert record["static_over_best_found"] == times["static"] / min(times.values())
    assert record["static_over_bound"] == times["static"] / record["bound_s"]


def test_published_ratios_are_compared_with_ours(record: dict[str, Any]) -> None:
    lines = {line["what"]: line for line in record["published"]}
    ratio = lines["static / best"]
    own = record["fang2025"]["static"]["time_s"] / record["fang2025"]["best"]["time_s"]
    assert ratio["ours"] == own
    assert ratio["deviation"] == own / ratio["published"] - 1
    assert "best" not in lines  # seconds of another size


def test_published_seconds_are_compared_with_ours_at_full_size() -> None:
    ours = {"best": 24.0, "static": None, "sa-guided": 25.0, "reactive": 90.0, "page": 25.1}
    policies = {name: {"time_s": time} for name, time in ours.items()}
    lines = compare_published(PAPER, Settings(STUDY, SCALES["full"]), policies)
    found = {line["what"]: line["ours"] for line in lines}
    assert {name: found[name] for name in ours} == ours
    assert found["static / best"] is None
    assert found["sa-guided / best"] == 25.0 / 24.0


def test_methods_that_the_accounting_refuses_have_a_note() -> None:
    found = run_cell(Cell(block=16), TINY).record
    assert {entry["time_s"] for entry in found["fang2025"].values()} == {None}
    assert "granularity" in found["fang2025"]["static"]["note"]
    assert found["gap"] is not None
    assert found["published"] == []


def test_a_method_that_runs_out_of_memory_does_not_affect_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(instance: Any, method: str, **options: Any) -> Any:
        if method == "belady":
            raise MemoryError
        return solve(instance, method, **options)

    monkeypatch.setattr(runner, "solve", large)
    found = run_cell(SMALL, TINY).record
    assert found["physical"]["belady"] == {
        "time_s": None,
        "hit_rate": None,
        "note": "more memory than there is",
    }
    assert found["gap"] is not None


def test_cells_equal_in_the_published_accounting_share_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def count(instance: Any, method: str, **options: Any) -> Any:
        ran.append(method)
        return solve(instance, method, **options)

    monkeypatch.setattr(runner, "solve", count)
    first, second = run_cells([SLOW, dataclasses.replace(SLOW, migration="prefetch")], TINY)
    assert first["fang2025"] == second["fang2025"]
    assert ran.count("reactive") == 1
    assert ran.count("belady") == 2
    assert second["bound_s"] <= first["physical"][first["best_found"]]["time_s"]


def test_policies_whose_moves_would_fill_the_memory_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    runs = run_cell(PAPER, TINY).record["physical"]
    assert runs["belady"] == {"time_s": None, "hit_rate": None, "note": "its moves would fill the memory"}
    assert runs["static"]["time_s"] is not None


def test_a_rerun_runs_no_complete_cell_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(run_cells([SMALL], TINY, tmp_path))
    ran: list[str] = []

    def count(cell: Cell, *rest: object) -> CellRun:
        ran.append(cell.name)
        return run_cell(cell, TINY)

    monkeypatch.setattr(runs, "run_cell", count)
    again = list(run_cells([SMALL, SLOW], TINY, tmp_path))
    assert ran == [SLOW.name]
    assert again[0] == first[0]
    assert list(run_cells([SLOW, SMALL], TINY, tmp_path)) == again[::-1]
    assert ran == [SLOW.name]


def test_cells_of_other_settings_are_refused(tmp_path: Path) -> None:
    list(run_cells([SMALL], TINY, tmp_path))
    other = Settings(STUDY, TINY.scale, 1, TINY.time_limit)
    with pytest.raises(UsageError, match="other settings"):
        next(run_cells([SMALL], other, tmp_path))
    (tmp_path / "cells" / f"{SMALL.name}.json").write_text("{}")
    with pytest.raises(InputError, match="schema"):
        next(run_cells([SMALL], TINY, tmp_path))


def test_an_interrupted_cell_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(instance: Any, method: str, **options: Any) -> Any:
        result = solve(instance, method, **options)
        if instance.name == SLOW.name and method == "belady":
            object.__setattr__(result, "termination", Termination(Reason.INTERRUPTED))
        return result

    monkeypatch.setattr(runner, "solve", stopped)
    run = run_cells([SMALL, SLOW], TINY, tmp_path)
    next(run)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert [path.stem for path in (tmp_path / "cells").glob("*.json")] == [SMALL.name]


@pytest.mark.slow
def test_bound_is_below_every_schedule_in_every_cell() -> None:
    for record in run_cells(STUDY.cells(), TINY):
        times = [entry["time_s"] for entry in record["physical"].values() if entry["time_s"] is not None]
        assert record["gap"] is not None, record["cell"]
        assert record["ideal_s"] * (1 - 1e-9) <= record["bound_s"] <= min(times) * (1 + 1e-9), record["cell"]
