"""Which kernel runs."""

import importlib.util
import sys

import pytest

from kvbound.errors import MissingPackageError, UsageError
from kvbound.kernels import pick


@pytest.fixture(autouse=True)
def _no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVBOUND_KERNEL", raising=False)


@pytest.fixture
def _no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


@pytest.mark.usefixtures("_no_numba")
def test_without_numba() -> None:
    assert pick() == "numpy"
    assert pick("numpy") == "numpy"
    with pytest.raises(MissingPackageError, match=r"^pip install .*\[fast\]'$"):
        pick("numba")


def test_with_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert pick() == "numba"
    assert pick("numba") == "numba"
    assert pick("numpy") == "numpy"


def test_the_environment_is_asked_when_nobody_else_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVBOUND_KERNEL", "numpy")
    assert pick() == "numpy"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert pick("numba") == "numba"
    monkeypatch.setenv("KVBOUND_KERNEL", "")
    assert pick() == "numba"


@pytest.mark.parametrize("name", ["cuda", "NumPy", " numba"])
def test_unknown_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UsageError, match="unknown kernel"):
        pick(name)
    monkeypatch.setenv("KVBOUND_KERNEL", name)
    with pytest.raises(UsageError, match="expected numpy or numba"):
        pick()
