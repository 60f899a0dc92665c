"""Unpack a commit and run it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.revisions.worker import DONE, INTERRUPTED

Job = tuple[Path, list[list[str]]]
"""A folder, and the commands to run there."""


class Revision(NamedTuple):
    """A commit, and the folder of everything that belongs to it."""

    commit: str
    place: Path

    @classmethod
    def unpack(cls, name: str, place: Path) -> Revision:
        """Unpack the package of a commit, unless that was done."""
        commit = subprocess.check_output(("git", "rev-parse", "--verify", f"{name}^{{commit}}"), text=True)
        revision = cls(commit[:12], place / commit[:12])
        if not revision.tree.exists():
            revision.place.mkdir(parents=True, exist_ok=True)
            packed = subprocess.check_output(("git", "archive", commit.strip(), "kvbound"))
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                unpacked = Path(tempfile.mkdtemp(dir=revision.place))
                archive.extractall(unpacked, filter="data")
            unpacked.rename(revision.tree)
        where = (sys.executable, "-c", "import kvbound; print(kvbound.__file__)")
        found = subprocess.check_output(where, cwd=place, env=revision.environment(), text=True)
        if revision.tree not in Path(found).parents:
            sys.exit(f"expected kvbound of {revision.tree}, not {found}")
        return revision

    @property
    def tree(self) -> Path:
        """The folder of the package."""
        return self.place / "tree"

    def environment(self) -> dict[str, str]:
        """Variables by which Python imports this revision: editable installs come after PYTHONPATH."""
        own = {"PYTHONPATH": str(self.tree), "KVBOUND_CACHE": str(self.place / "cache"), "COLUMNS": "150"}
        return {**os.environ, **own}

    def ask(self, *words: str) -> Any:
        """Return what a command prints as JSON."""
        command = (sys.executable, "-m", "kvbound", *words, "--json")
        return json.loads(subprocess.check_output(command, cwd=self.place, env=self.environment()))

    def run(self, jobs: list[Job]) -> None:
        """Run jobs in a process, and after a crash the rest in another, without those that have been run.

        A worker that crashes before its first job ends the comparison: both revisions would look the same.
        """
        jobs = [job for job in jobs if not _done(*job)]
        for folder, _ in jobs:
            shutil.rmtree(folder, ignore_errors=True)
        while jobs:
            worker = subprocess.run(
                (sys.executable, "-P", Path(__file__).with_name("worker.py")),
                input=json.dumps([(str(folder), commands) for folder, commands in jobs]),
                cwd=self.place,
                env=self.environment(),
                capture_output=True,
                text=True,
            )
            if worker.returncode in (INTERRUPTED, -signal.SIGINT):
                return
            jobs = [job for job in jobs if not _done(*job)]
            if jobs:
                folder, _ = jobs.pop(0)
                if not folder.exists():
                    sys.exit(f"{self.commit}: the worker does not start:\n{worker.stderr}")
                (folder / "crash.txt").write_text(f"{worker.stderr}exit code {worker.returncode}\n")


def _done(folder: Path, commands: list[list[str]]) -> bool:
    done = folder / DONE
    return done.exists() and json.loads(done.read_bytes()) == commands
