from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize("form", ["mps", "lp"])
def test_the_file_is_written_and_its_size_reported(form: str, run: Run, small: Path, tmp_path: Path) -> None:
    ran = run("export", small, "--format", form, "-o", tmp_path / "model.txt")
    assert (ran.code, ran.out) == (0, "")
    assert "columns" in ran.err
    first = (tmp_path / "model.txt").read_text().split(maxsplit=1)[0]
    assert first == {"mps": "NAME", "lp": "\\"}[form]


def test_refusals(run: Run, small: Path, tmp_path: Path) -> None:
    ran = run("export", "paper-low", "-o", tmp_path / "m.mps")
    assert ran.code == 2
    assert "accounting" in ran.err
    assert run("export", small, "--format", "xml", "-o", tmp_path / "m.xml").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]
