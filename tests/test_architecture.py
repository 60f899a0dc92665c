"""The package is as `tests.architecture` says, which would notice if it were not."""

from __future__ import annotations

from pathlib import Path

from tests import architecture
from tests.paths import ROOT


def test_no_circle_and_no_import_that_runs_up() -> None:
    assert architecture.problems(architecture.imports(ROOT / "kvbound")) == []


def test_no_folder_of_solvers_is_crowded() -> None:
    assert architecture.crowded(ROOT / "kvbound") == []


def package(root: Path, **modules: str) -> Path:
    folder = root / "kvbound"
    for name, text in modules.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_runs_up_is_found_wherever_it_is_imported(tmp_path: Path) -> None:
    low = "def f():\n    from kvbound import high\n"
    graph = architecture.imports(package(tmp_path, low=low, high="import kvbound.low\n"))
    assert architecture.problems(graph, (("high",), ("low",))) == [
        "in a circle: kvbound.high, kvbound.low",
        "not downwards: kvbound.low imports kvbound.high",
    ]


def test_rooms_of_one_floor_do_not_import_each_other(tmp_path: Path) -> None:
    graph = architecture.imports(package(tmp_path, a="from kvbound.b import x\n", b="x = 1\n"))
    assert architecture.problems(graph, (("a", "b"),)) == ["not downwards: kvbound.a imports kvbound.b"]


def test_a_room_is_named_with_its_floor(tmp_path: Path) -> None:
    graph = architecture.imports(package(tmp_path, a="", new__part=""))
    assert architecture.problems(graph, (("a",), ("old",))) == ["on no floor: new", "not there: old"]


def test_a_circle_within_a_folder_is_found(tmp_path: Path) -> None:
    one, two = "from kvbound.a import two\n", "from kvbound.a.one import x\n"
    graph = architecture.imports(package(tmp_path, a__one=one, a__two=two))
    assert architecture.problems(graph, (("a",),)) == ["in a circle: kvbound.a.one, kvbound.a.two"]


def test_a_crowded_folder_is_named(tmp_path: Path) -> None:
    folder = package(tmp_path, **{f"solvers__deep__m{n}": "" for n in range(architecture.MOST_FILES + 1)})
    assert architecture.crowded(folder) == ["13 modules in kvbound/solvers/deep"]
