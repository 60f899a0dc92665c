"""Another reader of the file finds the same program."""

from pathlib import Path

import highspy
import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.solvers import export
from kvbound.solvers.export import export_model


@pytest.mark.parametrize("form", ["mps", "lp"])
@pytest.mark.parametrize("name", ["tiny-on-read", "tiny-exclusive", "tiny-three", "tiny-latency"])
def test_the_same_optimum(name: str, form: str, tmp_path: Path) -> None:
    instance = kv.read_instance(name)
    path = tmp_path / "model"
    said = export_model(instance, path, form)
    unit_s = float(said.split()[-2])
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    named = path.rename(tmp_path / f"model.{form}")
    assert highs.readModel(str(named)) == highspy.HighsStatus.kOk
    highs.run()
    lp = highs.getLp()
    assert said.startswith(f"{lp.num_col_:,} columns, {lp.num_row_:,} rows")
    assert all("_" in column and "[" not in column for column in lp.col_names_)
    best = kv.solve(instance, "brute").time_s
    assert highs.getInfo().objective_function_value * unit_s == pytest.approx(best, rel=1e-5)


def test_what_is_too_large_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-on-read")
    monkeypatch.setattr(export, "MOST_COLUMNS", 10)
    with pytest.raises(UsageError, match=r"columns, more than the 10 "):
        export_model(instance, tmp_path / "m.mps")
    assert not list(tmp_path.iterdir())


def test_names_any_format_takes() -> None:
    assert export._plain(["x[0,-1]", "room[12]"]) == ["x_0_m1", "room_12"]
    assert np.unique(export._plain(["x[1,11]", "x[11,1]"])).size == 2
