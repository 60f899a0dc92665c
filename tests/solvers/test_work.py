"""Work instead of a time limit: the same bytes for any kernel, threads, processor and process."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.certificate import Certificate
from kvbound.cli.output import save
from kvbound.errors import UsageError
from kvbound.result import Result
from kvbound.solvers import portfolio
from kvbound.solvers.portfolio import run_all, solve

KERNELS = ["numpy", "numba"] if find_spec("numba") else ["numpy"]
NAMES = [
    "tiny-on-read", "tiny-prefetch", "tiny-blocks-exclusive", "tiny-exclusive-none",
    "swap-1x24-c30-b64-exclusive-prefetch", "three-1x24-exclusive",
]  # fmt: skip
DIFFERS = ("wall_s", "peak_rss_bytes", "kernel")


def contents(folder: Path) -> dict[str, Any]:
    """Return everything in a folder of results that has to be the same."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name == "result.json":
            found[name] = {k: v for k, v in json.loads(file.read_text()).items() if k not in DIFFERS}
        elif file.suffix == ".npz":
            found[name] = file.read_bytes()
    return found


def saved(result: Result, folder: Path) -> dict[str, Any]:
    save(result, folder)
    return contents(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["dual", "pricing", "anneal"])
def test_kernels_and_threads(method: str, name: str, tmp_path: Path) -> None:
    instance, found = kv.read_instance(name), []
    work = {"dual": 40, "pricing": 120, "anneal": 1}[method]
    for kernel in KERNELS:
        for threads in (1,) if method == "dual" else (1, 2):
            options: dict[str, Any] = {} if method == "dual" else {"threads": threads}
            result = solve(instance, method, work=work, kernel=kernel, **options)
            assert result.kernel == kernel
            assert result.options["work"] == work
            found.append(saved(result, tmp_path / f"{kernel}-{threads}"))
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_of_the_dual(threads: int) -> None:
    """The same on samples of the items."""
    instance = kv.read_instance("swap-1x200-c30-b64")
    results = [
        solvers_dual(instance, sample, threads=threads, kernel=kernel)
        for kernel in KERNELS
        for sample in (None, 0.1)
    ]
    for n in range(2):
        assert all(same(one, results[n]) for one in results[n::2])


def solvers_dual(instance: kv.Instance, sample: float | None, **options: Any) -> Certificate:
    from kvbound.solvers.lagrangian.bound import maximize_dual

    return maximize_dual(instance, work=30, sample=sample, **options).certificate


def same(one: Certificate, other: Certificate) -> bool:
    return all(np.array_equal(a, other.arrays()[name]) for name, a in one.arrays().items())


@pytest.mark.parametrize("name", ["tiny-on-read", "tiny-blocks-exclusive"])
def test_default_and_compare(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "MOST_COLUMNS", 0)  # pricing, then annealing
    instance, found = kv.read_instance(name), []
    for kernel in KERNELS:
        results = [solve(instance, work=3, gap=0.0, kernel=kernel)]
        assert results[0].method == "anneal"
        results += run_all(instance, work=20, kernel=kernel)
        assert "pricing" in [result.method for result in results]
        found.append([saved(r, tmp_path / kernel / str(n)) for n, r in enumerate(results)])
    assert all(other == found[0] for other in found[1:])


def test_of_the_published_study(tmp_path: Path) -> None:
    trace = kv.read_instance("swap-2x48-c30-b450").trace
    llm = {"name": "l", "layers": 2, "kv_bytes_per_token_layer": 16384, "weight_bytes": 1e6,
           "weight_read_bytes_per_layer": 2e5}  # fmt: skip
    instance = kv.make_instance(
        "t", memory="gh200-paper", llm=llm, trace=trace, rules={"accounting": "fang2025"}, capacity="30%"
    )
    found = []
    for kernel in KERNELS:
        found.append(saved(solve(instance, "anneal", work=3, kernel=kernel), tmp_path / kernel))
    assert all(other == found[0] for other in found[1:])


ELSEWHERE = {
    "OPENBLAS_CORETYPE": "Prescott",
    "OPENBLAS_NUM_THREADS": "1",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
}
"""Settings under which NumPy, BLAS and numba run as on an old processor."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swap-2x48-c30-b64", "three-1x24"])
def test_another_processor(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commands = {
        "bound": ("bound", name, "--work", "200", "--certificate", "{}/certificate.npz", "--json"),
        "pricing": ("solve", name, "--work", "200", "--method", "pricing", "--out", "{}"),
        "anneal": ("solve", name, "--work", "20", "--method", "anneal", "--out", "{}"),
    }
    elsewhere = ELSEWHERE | {"NUMBA_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "elsewhere")}
    for number, extra in enumerate(({}, elsewhere)):
        for command, arguments in commands.items():
            folder = tmp_path / str(number) / command
            folder.mkdir(parents=True)
            words = [word.format(folder) for word in arguments]
            run = subprocess.run(
                [sys.executable, "-m", "kvbound", *words], env=os.environ | extra,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            if command == "bound":
                document = json.loads(run.stdout) | {"certificate": None}
                (folder / "result.json").write_text(json.dumps(document))
    first, second = (contents(tmp_path / str(n)) for n in range(2))
    assert first == second
    assert len(first) == 7


def test_work_takes_the_place_of_the_time_limit() -> None:
    instance = kv.read_instance("tiny-on-read")
    assert solve(instance, "pricing", work=50, time_limit=0.0, gap=0.0).termination.limit == "work"
    assert solve(instance, "anneal", work=1, time_limit=0.0, gap=0.0).termination.limit == "work"
    assert solve(instance, "lru", work=1).status == "feasible"
    assert solve(instance, "brute", work=1).status == "optimal"
    for work in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            solve(instance, "dual", work=work)


def test_more_work_continues_the_same_search() -> None:
    """Four times the work makes four times the moves, and a schedule that is no slower."""
    instance = kv.read_instance("three-1x24")
    few, many = (solve(instance, "anneal", work=work, gap=0.0) for work in (2, 8))
    assert few.options["moves"] * 4 == many.options["moves"]
    assert many.time_s is not None
    assert few.time_s is not None
    assert many.time_s <= few.time_s
