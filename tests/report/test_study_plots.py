from pathlib import Path
from typing import Any

import pytest

from kvbound.errors import MissingPackageError
from kvbound.report import study_plots


def test_cells_and_methods_may_be_missing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows: list[dict[str, Any]] = [
        {
            "cell": "first",
            "bound_s": 1.0,
            "physical": {"static": {"time_s": 2.0}, "belady": {"time_s": None}},
        },
        {"cell": "second", "bound_s": None, "physical": {"static": {"time_s": 3.0}}},
        {"cell": "third", "bound_s": 2.0, "physical": {"anneal": {"time_s": 2.5}}},
    ]
    study_plots.draw("some", rows, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"some.png", "some.svg"}
    text = (tmp_path / "some.svg").read_text()
    assert "first" in text
    assert "third" in text
    assert "second" not in text


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_plots, "available", lambda: False)
    with pytest.raises(MissingPackageError, match="plots"):
        study_plots.draw("some", [], tmp_path)
