"""The faults that `python -m tests.mutation` makes."""

import ast
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants
from tests.paths import ROOT

SOURCE = '''
"""A text with 1 < 2 in it."""
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    LIMIT = 3
Number: TypeAlias = int | float

class Box:
    size: int = 1

    def __repr__(self) -> str:
        return str(self.size + 1)

@cache(maxsize=4)
def most(values: list[int], low: int = 0, progress=print) -> int:
    """Return 1."""
    best = low
    for value in values[low:]:
        progress(1, 2)
        if not value and value < 5:
            best = max(best, value)
    if best == 7:
        raise ValueError(f"{best + 1}" "too large")
    values.sort()
    return best - 1
'''


def test_the_faults_of_a_module() -> None:
    assert [f"{mutant.line}: {mutant}" for mutant in mutants(SOURCE)] == [
        "10: 1 -> 0",
        "16: 0 -> 1",
        "18: best = low -> pass",
        "19: low -> (low + 1)",
        "21: not value -> value",
        "21: not value and value < 5 -> (not (not value and value < 5))",
        "21: not value and value < 5 -> (not value or value < 5)",
        "21: value < 5 -> (value <= 5)",
        "21: 5 -> 6",
        "22: best = max(best, value) -> pass",
        "22: max -> min",
        "23: best == 7 -> (best != 7)",
        "23: 7 -> 8",
        "25: values.sort() -> pass",
        "26: best - 1 -> (best + 1)",
        "26: best - 1 -> None",
        "26: 1 -> 0",
    ]


@pytest.mark.parametrize("path", ["cost/slot.py", "checker/slots.py"])
def test_every_fault_compiles_and_changes_something(path: str) -> None:
    source = Path(ROOT, "kvbound", path).read_text(encoding="utf-8")
    whole = ast.dump(ast.parse(source))
    assert len(mutants(source)) > 100
    for mutant in mutants(source)[::5]:
        faulty = mutant.apply(source)
        compile(faulty, path, "exec")
        assert ast.dump(ast.parse(faulty)) != whole
        assert mutant.line in mutant.lines
