from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.revisions.folders import differences
from tests.revisions.revision import Revision


def write(
    folder: Path, *, bound: int = 5, time_s: float = 6.5, wall_s: float = 0.25, took: str = "2 s"
) -> Path:
    """Write what a command leaves behind, under a time that is the same in no two zip archives."""
    (folder / "out").mkdir(parents=True)
    np.savez(folder / "out" / "certificate.npz", prices=np.arange(bound), gain=np.zeros(3))
    document = {"method": "dual", "time_s": time_s, "kernel": "numba", "nested": {"wall_s": wall_s}}
    (folder / "out" / "result.json").write_text(json.dumps(document, indent=1))
    (folder / "out" / "compare.csv").write_text(f"method,wall_s,time_s\nlru,{wall_s},{time_s}\n")
    (folder / "00-out.txt").write_text(f"dual: a bound (took {took})\ntime  {time_s} s\n")
    (folder / "model.lp").write_text("min x\n")
    return folder


def compare(tmp_path: Path, **changed: float | str) -> list[str]:
    return list(differences(write(tmp_path / "base"), write(tmp_path / "head", **changed)))  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{}, {"wall_s": 3.5}, {"took": "890.1 ms"}])
def test_runs_that_differ_in_wall_time_are_the_same(tmp_path: Path, changed: dict[str, float | str]) -> None:
    assert compare(tmp_path, **changed) == []


def test_every_file_with_another_time_is_named_with_its_line(tmp_path: Path) -> None:
    assert compare(tmp_path, time_s=6.25) == [
        "00-out.txt: line 2: time  6.5 s != time  6.25 s",
        "out/compare.csv: line 2: lru,-,6.5 != lru,-,6.25",
        'out/result.json: line 3: "time_s": 6.5, != "time_s": 6.25,',
    ]


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        (np.array([0, 1, 2, 3, 5]), "prices: other values"),
        (np.arange(6), "prices: int64(5,) != int64(6,)"),
        (np.arange(5, dtype=np.int32), "prices: int64(5,) != int32(5,)"),
        (None, "arrays prices, gain != gain"),
    ],
)
def test_arrays(tmp_path: Path, prices: np.ndarray | None, said: str) -> None:
    base, head = write(tmp_path / "base"), write(tmp_path / "head")
    arrays = {} if prices is None else {"prices": prices}
    np.savez(head / "out" / "certificate.npz", **arrays, gain=np.zeros(3))  # type: ignore[arg-type]
    assert list(differences(base, head)) == [f"out/certificate.npz: {said}"]


def test_files_that_only_one_has(tmp_path: Path) -> None:
    base, head = write(tmp_path / "base"), write(tmp_path / "head")
    (base / "model.lp").unlink()
    (head / "out" / "result.json").unlink()
    assert list(differences(base, head)) == ["model.lp: only in head", "out/result.json: only in base"]


def test_a_worker_that_does_not_start_ends_the_comparison(tmp_path: Path) -> None:
    """Two folders that hold the same crash must not pass for two that hold the same results."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "dataclasses.py").write_text("raise ImportError('broken')")
    revision = Revision("0123", tmp_path)
    with pytest.raises(SystemExit, match=r"0123: the worker does not start:(.|\n)*broken"):
        revision.run([(tmp_path / "job", [["--version"]])])


def test_a_crash_is_a_result_and_other_jobs_go_on(tmp_path: Path) -> None:
    package = tmp_path / "tree" / "kvbound"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text("import os, sys\nsys.argv[1] == 'crash' and os._exit(3)")
    Revision("0123", tmp_path).run([(tmp_path / word, [[word]]) for word in ("crash", "fine")])
    assert (tmp_path / "crash" / "crash.txt").read_text() == "exit code 3\n"
    assert (tmp_path / "fine" / "done.json").exists()
