"""How many small faults in the package do its tests detect?

    python -m tests.mutation [AREA ...] [--sample N] [--seed S] [--timeout SECONDS] [--jobs J]

Each area's tests run once on the unchanged code, to record which of them execute which lines. Then every
fault of a random sample, to which each file contributes its share, runs in a copy of the tree against the
tests that execute its line: those of its module first, then the area's others, then the ladder and the counts
of work, the fastest first. A test that fails or takes far too long kills the fault; where no test executes
the line, it survives. Modules with compiled functions, and what those import, run as plain Python: no old
compiled code is used.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runs import LONGEST_S, Observer, Seen, Selected, fork, run
from tests.paths import ROOT

TABLE = ROOT / "docs" / "mutation.csv"
LOADED = ("coverage", "highspy", "hypothesis", "numba", "pandas", "pyomo.environ", "scipy.optimize")
KILLED, OVERDUE, SURVIVED, UNREACHED = "killed", "timed out", "survived", "never executed"


class Area(NamedTuple):
    """Patterns of modules (! takes files out) and of their tests, and the required score in %."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    goal: int


DUAL = "kvbound/solvers/lagrangian/*.py"
LAST = ("tests/solvers/test_ladder.py", "tests/solvers/test_work.py")
AREAS = {
    "cost": Area(("kvbound/cost/*.py",), ("tests/cost/test_*.py",), 85),
    "dual": Area((DUAL,), ("tests/solvers/lagrangian/test_*.py", *LAST), 85),
    "checker": Area(("kvbound/checker/*.py",), ("tests/checker/test_*.py",), 85),
    "solvers": Area(
        ("kvbound/solvers/**/*.py", "kvbound/bitsets/*.py", f"!{DUAL}"),
        ("tests/solvers/**/test_*.py", "tests/bitsets/test_*.py"),
        75,
    ),
    "limits": Area(
        ("kvbound/limit.py", "kvbound/onset.py", "kvbound/binding.py"),
        ("tests/test_limit.py", "tests/test_onset.py", "tests/test_binding.py", "tests/test_silicon.py"),
        85,
    ),
}


class Case(NamedTuple):
    """A mutant (or none) of a file, the tests to run, and whether compiled functions run as Python."""

    path: str
    mutant: Mutant | None
    tests: dict[str, float]
    plain: bool


def paths(patterns: tuple[str, ...]) -> list[str]:
    """Return the files that patterns choose, relative to the root."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern.lstrip("!"))}
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    return sorted(chosen)


def sample(found: dict[str, list[Mutant]], size: int, seed: int) -> list[tuple[str, Mutant]]:
    """Draw mutants, from every file its share."""
    generator, ranked = random.Random(seed), []
    for path, every in found.items():
        shift = generator.random()
        for n, mutant in enumerate(generator.sample(every, len(every))):
            ranked.append(((n + shift) / len(every), path, mutant))
    return [(path, mutant) for _, path, mutant in sorted(ranked, key=lambda entry: entry[0])[:size]]


def compiled(sources: dict[str, str]) -> set[str]:
    """Return the modules with compiled functions and those that they import."""
    kernels = {path for path, source in sources.items() if "@compiled" in source}
    imports = (re.findall(r"^from (kvbound\S*) import", sources[path], re.M) for path in kernels)
    return kernels.union(name.replace(".", "/") + ".py" for names in imports for name in names)


def copied(source: Path, target: Path) -> Path:
    """Copy a tree with its file times, by which compiled code is matched to its source."""
    left_out = shutil.ignore_patterns(".git", ".venv", "out", "dist", "_build", ".*_cache", ".hypothesis")
    shutil.copytree(source, target, symlinks=True, ignore=left_out)
    return target


def observe(base: Path, plain: bool, file: str) -> Seen:
    """Run a test file unchanged."""
    way = "plain" if plain else "compiled"
    notes = base.parent / f"{file.replace('/', '-')}.{way}"
    observer = Observer(file, LONGEST_S[way], notes)
    run(base, observer, plain, wall_s=1800)
    if not notes.exists():
        sys.exit(f"{file} does not run:\n{observer.log.read_text()[-2000:]}")
    return Seen(**pickle.loads(notes.read_bytes()))


tree = Path()
"""A worker process's own copy of the tree."""


def own_tree(base: Path) -> None:
    """Give this worker a copy of the tree."""
    global tree
    tree = copied(base, base.parent / f"worker-{os.getpid()}")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # two mutants' times and sizes may be the same
    sys.dont_write_bytecode = True


def judge(case: Case) -> str:
    """Run a mutant."""
    if not case.tests:
        return UNREACHED
    path = tree / case.path
    source, stat = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(case.mutant.apply(source) if case.mutant else source, encoding="utf-8")
    try:
        wall_s = 60 + 12 * sum(case.tests.values())  # other programs may run beside
        code = run(tree, Selected(case.tests, tree.with_suffix(".log")), case.plain, wall_s)
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if code in (-signal.SIGPROF, -signal.SIGKILL):
        return OVERDUE
    return SURVIVED if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else KILLED


def verdicts(pool: Executor, cases: list[Case]) -> Counter[str]:
    """Run mutants, print those that survive and count the outcomes."""
    counts: Counter[str] = Counter()
    for case, verdict in zip(cases, pool.map(judge, cases), strict=True):
        counts[verdict] += 1
        if case.mutant and verdict in (SURVIVED, UNREACHED):
            print(f"{case.path}:{case.mutant.line}: {case.mutant} ({verdict})", flush=True)
    return counts


def report(base: Path, area: str, options: argparse.Namespace) -> dict[str, object]:
    """Run an area's mutants, given a copy of the tree; return its row of the table."""
    sources = {path: (base / path).read_text(encoding="utf-8") for path in paths(("kvbound/**/*.py",))}
    found = {path: mutants(sources[path]) for path in paths(AREAS[area].modules)}
    drawn, kernels = sample(found, options.sample, options.seed), compiled(sources)
    ways = sorted({path in kernels for path, _ in drawn})
    runs = [(plain, file) for plain in ways for file in paths(AREAS[area].tests)]
    seen = {plain: Seen() for plain in ways}
    with ProcessPoolExecutor(options.jobs, fork) as pool:
        for (plain, _), part in zip(
            runs, pool.map(observe, repeat(base), *zip(*runs, strict=True)), strict=True
        ):
            seen[plain].add(part)
    cases = [
        Case(path, mutant, seen[path in kernels].tests(path, mutant.lines, options.timeout), path in kernels)
        for path, mutant in drawn
    ]
    begin = time.monotonic()
    with ProcessPoolExecutor(options.jobs, fork, initializer=own_tree, initargs=(base,)) as pool:
        for plain in ways:
            print(f"{area}{', compiled functions as Python' * plain}: {seen[plain]}", flush=True)
        unchanged = {case.plain: case._replace(mutant=None) for case in cases if case.tests}
        if verdicts(pool, [*unchanged.values()])[SURVIVED] < len(unchanged):
            logs = "".join(log.read_text()[-3000:] for log in base.parent.glob("worker-*.log"))
            sys.exit(f"{area}: tests fail where nothing is wrong\n{logs}")
        counts = verdicts(pool, cases)
    score = 100 * (counts[KILLED] + counts[OVERDUE]) / len(cases)
    each = (time.monotonic() - begin) / len(cases)
    print(f"{area}: {score:.0f} % of {len(cases)} mutants killed, {each:.1f} s each", flush=True)
    return (
        {"area": area, "mutants": sum(map(len, found.values())), "sample": len(cases)}
        | {verdict: counts[verdict] for verdict in (KILLED, OVERDUE, SURVIVED, UNREACHED)}
        | {"score (%)": f"{score:.0f}", "goal (%)": AREAS[area].goal}
        | {"seed": options.seed, "tests (s)": options.timeout}
    )


def write(rows: list[dict[str, object]]) -> None:
    """Put rows of areas into the table; the rows of other areas stay."""
    old = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())) if TABLE.exists() else []
    by_area = {row["area"]: row for row in [*old, *rows]}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(by_area[area] for area in AREAS if area in by_area)


def main() -> None:
    """Run mutants, print the survivors and the scores, and write the table; fail below a goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"{', '.join(AREAS)}; all by default")
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="mutants of an area")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample")
    parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS", help="of tests for a mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="J", help="at a time")
    options = parser.parse_args()
    if unknown := {*options.areas} - {*AREAS}:
        parser.error(f"no area {', '.join(unknown)}: expected {', '.join(AREAS)}")
    print(f"{options.sample} mutants an area, seed {options.seed}, {options.timeout:g} s of tests for each")
    for module in LOADED:  # once for all children
        importlib.import_module(module)
    os.environ.pop("NUMBA_CACHE_DIR", None)
    with tempfile.TemporaryDirectory(prefix="kvbound-mutation-") as folder:
        base = copied(ROOT, Path(folder, "base"))
        rows = []
        for area in (area for area in AREAS if area in (options.areas or AREAS)):
            rows.append(report(base, area, options))
            write(rows)
    sys.exit(any(float(str(row["score (%)"])) < AREAS[str(row["area"])].goal for row in rows))


if __name__ == "__main__":
    main()
