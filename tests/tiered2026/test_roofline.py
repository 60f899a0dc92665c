import pytest

from kvbound import catalog
from kvbound.tiered2026.roofline import compute_only, memory_bound, ridge_point
from tests.tiered2026.cases import setting

A100 = catalog.gpu("a100-40")


@pytest.mark.parametrize(
    ("name", "compute", "context", "memory"),
    [
        ("smollm2-135m", 1_155_556, 186, 14_169.9),
        ("tinyllama-1.1b", 141_818, 179, 2311.2),
        ("llama-2-7b", 23_283.6, 170, 372.9),
    ],
)
def test_predictions_on_an_a100(name: str, compute: float, context: int, memory: float) -> None:
    case = setting(name)
    assert compute_only(A100, case) == pytest.approx(compute, rel=0, abs=0.5 if compute > 1e5 else 0.05)
    assert memory_bound(A100, case, context) == pytest.approx(memory, rel=0, abs=0.05)


def test_ridge_point() -> None:
    assert ridge_point(catalog.gpu("t4")) == 203.125
