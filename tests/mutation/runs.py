"""Runs of pytest in a copy of the tree, each in a process forked for it: packages are imported only once."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

EXAMPLES = 25
"""Of a hypothesis test, at most; always the same ones."""
LONGEST_S = {"compiled": 20, "plain": 5}
"""Tests that take more processor time unchanged are left out, by how compiled functions run."""
SLACK_S = 10
"""Processor time that a test may take beyond thrice what it takes unchanged."""
MOST_BYTES = 12 << 30

fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Seen:
    """What the tests do on the unchanged code.

    Attributes
    ----------
    seconds
        Processor time of each test that passes.
    unused
        Tests that fail, are skipped or take too long.
    lines
        By file and line the tests that execute it, the test files whose shared fixtures do, "" for an import.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)

    def __str__(self) -> str:
        unused = f"; unused: {', '.join(sorted(self.unused))}" if self.unused else ""
        return f"{len(self.seconds)} tests in {sum(self.seconds.values()):.0f} s{unused}"

    def add(self, other: Seen) -> None:
        """Add what other tests do."""
        self.seconds.update(other.seconds)
        self.unused.update(other.unused)
        for path, lines in other.lines.items():
            for line, tests in lines.items():
                self.lines.setdefault(path, {}).setdefault(line, set()).update(tests)

    def tests(self, path: str, lines: range, limit: float) -> dict[str, float]:
        """Return the tests to run against a fault on some lines, in order, with their seconds."""
        executed = self.lines.get(path, {})
        reached = {test for line in lines for test in executed.get(line, ())}
        if reached == {""}:  # whoever uses the module may notice
            reached = {test for tests in executed.values() for test in tests} - {""} or {*self.seconds}
        chosen: dict[str, float] = {}
        for test in sorted(self.seconds, key=lambda test: (_rank(test, path), self.seconds[test])):
            fits = sum(chosen.values()) + self.seconds[test] <= limit
            if (test in reached or test.split("::")[0] in reached) and (fits or not chosen):
                chosen[test] = self.seconds[test]
        return chosen


def _rank(test: str, path: str) -> int:
    """Sort a module's own tests before the area's others, and the ladder and the counts of work last."""
    stem = Path(test.split("::")[0]).stem
    return 2 if stem in ("test_ladder", "test_work") else int(Path(path).stem.strip("_") not in stem)


class Selected:
    """A pytest plugin: runs tests in their order until one fails or takes far too long."""

    def __init__(self, seconds: dict[str, float], log: Path) -> None:
        self.seconds, self.log = seconds, log
        self.arguments = ["-x", *dict.fromkeys(test.split("::")[0] for test in seconds)]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[test] for test in self.seconds if test in by_name]
        _shorten(items)

    def pytest_runtest_setup(self, item: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, SLACK_S + 3 * self.seconds[item.nodeid])


class Observer:
    """A pytest plugin: runs a test file and records what is `Seen`."""

    def __init__(self, file: str, longest_s: float, notes: Path) -> None:
        self.arguments, self.longest_s, self.notes = [file], longest_s, notes
        self.log = notes.with_suffix(notes.suffix + ".log")
        self.seen, self.test, self.modules, self.caches = Seen(), "", 0, list[Any]()

    def pytest_sessionstart(self) -> None:
        from coverage import Coverage

        self.coverage = Coverage(data_file=None, config_file=False, source=["kvbound"])
        self.coverage.start()
        signal.signal(signal.SIGPROF, _overdue)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        _shorten(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self._forget()
        self.test, begin = item.nodeid, time.process_time()
        self.coverage.switch_context(self.test)
        signal.setitimer(signal.ITIMER_PROF, self.longest_s)
        done = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seen.seconds[self.test] = time.process_time() - begin
        return done

    def _forget(self) -> None:
        """Empty the caches of functions: every test is to execute what it relies on."""
        if self.modules != len(sys.modules):
            found = (one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper))
            self.caches = [one for one in found if one.__module__.startswith("kvbound.")]
            self.modules = len(sys.modules)
        for cached in self.caches:
            cached.cache_clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        self.coverage.switch_context(self.test if fixturedef.scope == "function" else request.node.nodeid)
        done = yield
        self.coverage.switch_context(self.test)
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        try:
            return (yield)
        except KeyboardInterrupt as error:  # pytest would end
            raise RuntimeError from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.seen.unused.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        for name in data.measured_files():
            lines = {line: set(tests) for line, tests in data.contexts_by_lineno(name).items()}
            self.seen.lines[str(Path(name).relative_to(Path.cwd()))] = lines
        for test in self.seen.unused:
            self.seen.seconds.pop(test, None)
        self.notes.write_bytes(pickle.dumps(vars(self.seen)))


def _overdue(*_: object) -> None:
    raise TimeoutError


def _shorten(items: list[Any]) -> None:
    """Give hypothesis tests few examples, the same each time."""
    from hypothesis import settings

    for item in items:
        function: Any = getattr(item, "function", None)
        if old := getattr(function, "_hypothesis_internal_use_settings", None):
            few = min(old.max_examples, EXAMPLES)
            new = settings(old, max_examples=few, derandomize=True, database=None)
            function._hypothesis_internal_use_settings = new


def run(tree: Path, plugin: Observer | Selected, plain: bool, wall_s: float | None = None) -> int:
    """Run tests in a copy of the tree; return pytest's exit code, or minus the signal that ended it.

    Parameters
    ----------
    plain
        Whether compiled functions run as Python.
    wall_s
        Seconds after which the run is ended.
    """
    child = fork.Process(target=_child, args=(tree, plugin, plain))
    child.start()
    child.join(wall_s)
    if child.exitcode is None:
        os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
    return child.exitcode or 0


def _child(tree: Path, plugin: Observer | Selected, plain: bool) -> None:
    os.setsid()
    os.chdir(tree)
    with plugin.log.open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the run is in the background
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.setitimer(signal.ITIMER_PROF, 6 * SLACK_S)  # for imports
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if plain:
        _as_python()
        options += ["-W", "ignore:overflow"]  # numba's integers wrap around without a word
    sys.exit(pytest.main([*options, *plugin.arguments], plugins=[plugin]))


def _as_python() -> None:
    """Let compiled functions run as Python, and the kernel be named numba all the same."""
    import numba

    os.environ["NUMBA_DISABLE_JIT"] = "1"
    numba.config.DISABLE_JIT = True
    from kvbound import kernels

    kernels._trouble = lambda: None  # type: ignore[assignment]
