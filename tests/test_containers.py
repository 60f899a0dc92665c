"""Without a home, a name, a place to write: as in many containers, everything still runs."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import kvbound

NO_TOKENS = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")
READS = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
"""So that Python can be read although it is installed in root's home."""


@cache
def _as_nobody() -> tuple[str, ...]:
    """What runs a command as a user without a name who may not write; nothing if that is who we are."""
    if os.geteuid() != 0:
        return ()
    for prefix in (NO_TOKENS, NO_TOKENS + READS):
        tried = subprocess.run([*prefix, sys.executable, "-c", "import numpy"], capture_output=True)
        if tried.returncode == 0:
            return prefix
    pytest.skip("root, and nobody else can run this Python")


@pytest.fixture
def place() -> Iterator[Path]:
    """A temporary folder that others may look into: pytest keeps its own to its user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def package(place: Path) -> Iterator[Path]:
    """A copy of the package that cannot be written, with nothing compiled in it."""
    if shutil.which("setpriv") is None and os.geteuid() == 0:
        pytest.skip("no setpriv")
    skipped = shutil.ignore_patterns("__pycache__", "real", "small")
    shutil.copytree(Path(kvbound.__file__).parent, place / "site" / "kvbound", ignore=skipped)
    folders = [place / "site", *(path for path in (place / "site").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield place / "site"
    for folder in folders:
        folder.chmod(0o755)


def run(package: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run kvbound as nobody with nothing but this in the environment."""
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(package), "KVBOUND_DEBUG": "1", **environment}
    command = [*_as_nobody(), sys.executable, "-B", "-W", "error", "-m", "kvbound", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd="/")


@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}])
def test_versions(package: Path, home: dict[str, str], place: Path) -> None:
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    done = run(package, "--version", "-v", TMPDIR=str(place / "tmp"), **home)
    assert done.stderr == ""
    assert done.returncode == 0
    assert str(place / "tmp" / "kvbound-") in done.stdout
    assert f"kernel  {'numba' if find_spec('numba') else 'numpy'}" in done.stdout


def test_nothing_is_left_to_write(package: Path) -> None:
    done = run(package, "bound", "tiny-on-read", "--time-limit", "1", "--kernel", "numpy", "--json")
    assert done.stderr == ""
    assert done.returncode == 0
    assert json.loads(done.stdout)["kernel"] == "numpy"


def test_without_compilation(package: Path) -> None:
    done = run(package, "bound", "tiny-on-read", "--time-limit", "1", "--json", NUMBA_DISABLE_JIT="1")
    assert done.stderr == ""
    assert done.returncode == 0
    assert json.loads(done.stdout)["kernel"] == "numpy"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_compiled_code_that_cannot_be_kept(package: Path) -> None:
    for method in ("pricing", "anneal"):
        done = run(
            package, "solve", "tiny-on-read", "--method", method, "--time-limit", "1", "--json",
            HOME="/nonexistent",
        )  # fmt: skip
        assert done.stderr == ""
        assert done.returncode == 0
        assert json.loads(done.stdout)["kernel"] == "numba"


MAKE = """
from kvbound import workloads
trace = workloads.make(workloads.Fang2025(1, 6000, 2000))
print(trace.row_hashes())
"""


def test_traces_without_a_place_of_ones_own(package: Path, place: Path) -> None:
    """They are made in a temporary folder, once, unless a folder that cannot be written has them."""
    temporary, kept = place / "tmp", place / "kept"
    for folder in (temporary, kept):
        folder.mkdir()
        folder.chmod(0o1777)

    def make(**environment: str) -> str:
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(package), "TMPDIR": str(temporary), **environment}
        command = [*_as_nobody(), sys.executable, "-B", "-W", "error", "-c", MAKE]
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd="/", check=True).stdout

    first = make(KVBOUND_CACHE=str(kept))
    (entry,) = kept.glob("*.trace")
    os.chmod(entry, 0o555)
    os.chmod(kept, 0o555)
    try:
        assert make(KVBOUND_CACHE=str(kept)) == first
        for lock in kept.glob("*.use"):
            os.chmod(lock, 0o000)
        assert make(KVBOUND_CACHE=str(kept)) == first
    finally:
        os.chmod(kept, 0o755)
        os.chmod(entry, 0o755)
    assert not list(temporary.iterdir())
    assert make() == first
    (mine,) = temporary.iterdir()
    made = {file: file.stat().st_mtime_ns for file in mine.glob("*.trace/layer*")}
    assert make(HOME="/nonexistent") == first
    assert made == {file: file.stat().st_mtime_ns for file in mine.glob("*.trace/layer*")}
    assert mine.stat().st_mode & 0o777 == 0o700
