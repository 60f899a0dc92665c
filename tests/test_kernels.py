"""The choice of the kernel."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvbound import kernels
from kvbound.errors import MissingPackageError, UsageError
from kvbound.kernels import pick

INSTALLED = importlib.util.find_spec("numba") is not None
with_numba = pytest.mark.skipif(not INSTALLED, reason="numba is not installed")


@pytest.fixture(autouse=True)
def _unset_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("KVBOUND_KERNEL", raising=False)
    kernels._trouble.cache_clear()
    yield
    kernels._trouble.cache_clear()


@pytest.fixture
def _no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


@pytest.mark.usefixtures("_no_numba")
def test_without_numba() -> None:
    assert pick() == "numpy"
    assert pick("numpy") == "numpy"
    with pytest.raises(MissingPackageError, match=r"^pip install .*\[fast\]'$"):
        pick("numba")

    def function() -> int:
        return 1

    assert kernels.compiled()(function) is function


@with_numba
def test_with_numba() -> None:
    assert pick() == "numba"
    assert pick("numba") == "numba"
    assert pick("numpy") == "numpy"


@with_numba
def test_the_environment_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVBOUND_KERNEL", "numpy")
    assert pick() == "numpy"
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


@with_numba
def test_without_compilation_numpy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert pick() == "numpy"
    with pytest.raises(UsageError, match="NUMBA_DISABLE_JIT is set"):
        pick("numba")


@pytest.mark.parametrize(
    "fault", ["raise ImportError('needs NumPy 1')", "raise SystemError('bad LLVM')", "1 +"]
)
def test_numba_that_cannot_be_imported(tmp_path: Path, fault: str) -> None:
    (tmp_path / "numba.py").write_text(fault)
    code = (
        "from kvbound.kernels import pick\n"
        "import kvbound.solvers.pricing, kvbound.solvers.eviction.balanced_numba\n"
        "print(pick())\n"
        "from kvbound.errors import UsageError\n"
        "try:\n    pick('numba')\nexcept UsageError as error:\n    print(error)"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(kernels.__file__).parents[1])])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = run.stdout.splitlines()
    assert first == "numpy"
    assert second.startswith("kernel numba does not work here: its import fails (")


@with_numba
def test_a_failing_cache_is_ignored() -> None:
    def broken(*_: object) -> object:
        raise OSError(28, "No space left on device")

    @kernels.compiled()
    def double(n: int) -> int:
        return 2 * n

    double._cache.load_overload = kernels._or_none(broken)
    double._cache.save_overload = kernels._or_none(broken)
    assert double(21) == 42
