from kvbound.report.sections import grid
from kvbound.report.study import headlines


def test_grid_is_aligned_markdown() -> None:
    lines = grid(["cell", "n"], [["a", "1"], ["longer", "1.5x"]]).splitlines()
    assert lines == ["| cell   |    n |", "| ------ | ---: |", "| a      |    1 |", "| longer | 1.5x |"]


def test_headlines_without_cells_are_empty() -> None:
    names = ("best_found_at_450", "bound_at_450", "best_found", "bound")
    assert headlines(dict.fromkeys(names) | {"published": 5.87}) == []
