"""``python -m tests.revisions``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.revisions import __doc__ as usage
from tests.revisions.commands import RULE, jobs
from tests.revisions.folders import differences, files
from tests.revisions.revision import Job, Revision
from tests.revisions.times import compare_times

BATCH = 8


def main() -> int:
    """Compare what the command line names and return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m tests.revisions", description=usage, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD")
    parser.add_argument(
        "--only", metavar="PATTERN", default="", help="only jobs, or commands, with such names"
    )
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="keep everything there, and use what is there"
    )
    parser.add_argument("--times", action="store_true", help="compare how long commands take")
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="of each command, with --times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvbound-revisions-") as temporary:
        place = (options.keep or Path(temporary)).resolve()
        base, head = (Revision.unpack(name, place) for name in (options.base, options.head))
        if options.times:
            compare_times(base, head, options.only, options.runs, Path(temporary))
            return 0
        return compare_results(base, head, options.only)


def compare_results(base: Revision, head: Revision, only: str) -> int:
    """Run jobs on both revisions, print what differs, and return the exit code."""
    begin = time.perf_counter()
    todo = {name: commands for name, commands in jobs(base) if re.search(only, name)}
    if not todo:
        sys.exit(f"no job has a name like {only!r}")
    print(f"{RULE}\n{len(todo)} jobs on {base.commit} and {head.commit}", flush=True)
    again = "again" if base.commit == head.commit else "results"
    folders = {name: (base.place / "results" / name, head.place / again / name) for name in todo}
    run_jobs((base, head), [((a, todo[name]), (b, todo[name])) for name, (a, b) in folders.items()])
    found = [f"{name}/{line}" for name in todo for line in differences(*folders[name])]
    print(*found, sep="\n", end="\n" if found else "")
    artefacts = sum(len(files(one)) for one, _ in folders.values())
    commands = sum(map(len, todo.values()))
    verdict = f"{len(found)} differ" if found else "all are the same"
    print(f"{artefacts} artefacts of {commands} commands: {verdict} ({time.perf_counter() - begin:.0f} s)")
    return 1 if found else 0


def run_jobs(revisions: tuple[Revision, Revision], jobs: list[tuple[Job, Job]]) -> None:
    """Run pairs of jobs, about `BATCH` in a process."""
    stride = 1 + len(jobs) // BATCH
    batches = [
        (r, [pair[i] for pair in jobs[k::stride]]) for k in range(stride) for i, r in enumerate(revisions)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # The first job compiles most kernels, which all others find on disk.
        list(pool.map(Revision.run, revisions, ([job] for job in jobs[0])))
        for number, _ in enumerate(pool.map(Revision.run, *zip(*batches, strict=True)), 1):
            print(f"\r{number} of {len(batches)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
