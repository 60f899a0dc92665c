"""Exported files hold the same program for every reader."""

import dataclasses
from pathlib import Path

import highspy
import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.models import formulation
from kvbound.solvers.mip import export
from kvbound.solvers.mip.export import export_model, plain, write_model
from tests.solvers.mip.readers import READERS

SOME = ["tiny-on-read", "tiny-exclusive", "tiny-three", "tiny-latency"]
MORE = [*SOME, "tiny-prefetch", "tiny-blocks", "tiny-fill-1", "tiny-prefill-first", "tiny-three-none"]


def read(path: Path) -> highspy.Highs:
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
    return highs


@pytest.mark.parametrize("form", ["mps", "lp"])
@pytest.mark.parametrize("name", SOME)
def test_highs_finds_the_same_optimum(name: str, form: str, tmp_path: Path) -> None:
    instance = kv.read_instance(name)
    path = tmp_path / "model"
    summary = export_model(instance, path, form)
    unit_s = float(summary.split()[-2])
    highs = read(path.rename(tmp_path / f"model.{form}"))
    highs.run()
    lp = highs.getLp()
    assert summary.startswith(f"{lp.num_col_:,} columns, {lp.num_row_:,} rows")
    assert all("_" in column and "[" not in column for column in lp.col_names_)
    best = kv.solve(instance, "brute").time_s
    assert highs.getInfo().objective_function_value * unit_s == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mps", "lp"])
@pytest.mark.parametrize("solver", READERS)
@pytest.mark.parametrize("name", MORE)
def test_other_solvers_find_the_same_optimum(name: str, solver: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{form}"
    unit_s = float(export_model(kv.read_instance(name), path, form).split()[-2])
    best = kv.solve(kv.read_instance(name), "brute").time_s
    assert READERS[solver](path) * unit_s == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("name", MORE)
def test_lp_files_have_the_common_section_names_and_short_lines(name: str, tmp_path: Path) -> None:
    matrix, path = formulation(kv.read_instance(name)).matrix, tmp_path / "model.lp"
    write_model(matrix, path, "lp", "a comment")
    lines = path.read_text().splitlines()
    assert lines[1] == "\\ a comment"
    known = {"min", "st", "bounds", "binaries", "generals", "end"}
    assert {line for line in lines if not line.startswith((" ", "\\"))} <= known
    assert max(map(len, lines)) <= 560
    section = {line: lines.index(line) for line in ("binaries", "generals", "end") if line in lines}
    integer = {line.strip() for line in lines[min(section.values()) :]} - section.keys()
    names = plain(matrix.column_names())
    assert integer == {names[n] for n in np.flatnonzero(matrix.integer)}
    assert {word for line in lines[: -len(integer)] for word in line.split()} >= set(names)


def test_ranges_and_all_kinds_of_bounds_survive_a_round_trip(tmp_path: Path) -> None:
    matrix = formulation(kv.read_instance("tiny-on-read")).matrix
    lower, upper, integer = matrix.lower.copy(), matrix.upper.copy(), matrix.integer.copy()
    lower[:7], upper[:7] = [-np.inf, -np.inf, -2.5, 3, 0, 0, 4], [np.inf, 7, -1, np.inf, 1, np.inf, 4]
    integer[:7] = [False, False, False, True, True, True, True]
    row_lower, row_upper = matrix.row_lower.copy(), matrix.row_upper.copy()
    row_lower[0], row_upper[0] = -3.0, 1 / 3
    changed = dataclasses.replace(
        matrix, lower=lower, upper=upper, integer=integer, row_lower=row_lower, row_upper=row_upper
    )
    for form, twice in (("lp", 1), ("mps", 0)):  # two rows in LP, a range in MPS
        path = tmp_path / f"model.{form}"
        write_model(changed, path, form, "a comment")
        lp = read(path).getLp()
        order = [lp.col_names_.index(name) for name in plain(matrix.column_names())]
        assert np.array_equal(np.array(lp.col_lower_)[order], lower)
        assert np.array_equal(np.array(lp.col_upper_)[order], upper)
        assert [lp.integrality_[n] == highspy.HighsVarType.kInteger for n in order] == integer.tolist()
        assert lp.num_row_ == len(row_lower) + twice
        first = plain(matrix.row_names())[0]
        pair = [n for n, name in enumerate(lp.row_names_) if name.startswith(first)]
        assert len(pair) == 1 + twice
        assert max(lp.row_lower_[n] for n in pair) == -3.0
        assert min(lp.row_upper_[n] for n in pair) == 1 / 3


def test_a_large_program_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-on-read")
    monkeypatch.setattr(export, "MAX_COLUMNS", 10)
    with pytest.raises(UsageError, match=r"columns, more than the 10 "):
        export_model(instance, tmp_path / "m.mps")
    assert not list(tmp_path.iterdir())


def test_plain_names() -> None:
    assert plain(["x[0,-1]", "room[12]"]) == ["x_0_m1", "room_12"]
    assert np.unique(plain(["x[1,11]", "x[11,1]"])).size == 2
