"""How long commands take on two revisions."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.revisions.revision import Revision

TIMES = {
    "startup": "--version",
    "info": "instance info native-r15-c25-b64 --json",
    "compare, tiny": "compare tiny-on-read",
    "compare, real": "compare native-r15-c25-b64 --methods static,reactive,page,sa-guided,lfu,keep-last",
    "exact": "solve native-r15-c25-b64-n64 --method exact",
    "bound": "bound native-r15-c25-b64 --work 500",
    "pricing": "solve native-r15-c25-b64 --method pricing --work 100",
    "anneal": "solve native-r15-c25-b64 --method anneal --work 10",
    "lru": "simulate native-r40-c10-b64 --policy lru",
    "belady": "simulate native-r40-c10-b64 --policy belady",
    "check": "check native-r15-c25-b64 pricing",
}


def compare_times(base: Revision, head: Revision, only: str, runs: int, place: Path) -> None:
    """Run commands in turn on both revisions, and print how long they take."""
    chosen = {name: command for name, command in TIMES.items() if re.search(only, name)}
    if "check" in chosen:
        _time(base, f"{TIMES['pricing']} --out pricing", place)
    print(
        f"{'seconds':15}{base.commit:>14}   {head.commit:>14}   ratio of\n"
        f"{'':15}   min  median      min  median    wall    CPU"
    )
    ratios = []
    for name, command in chosen.items():
        seconds = np.array([[_time(r, command, place) for r in (base, head)] for _ in range(runs + 1)])[1:]
        (low, low2), (middle, middle2) = np.min(seconds[..., 0], 0), np.median(seconds[..., 0], 0)
        wall, cpu = np.median(seconds[:, 1] / seconds[:, 0], axis=0)
        ratios.append((wall, cpu))
        print(
            f"{name:15}{low:6.3f}  {middle:6.3f}   {low2:6.3f}  {middle2:6.3f}   {wall:5.3f}  {cpu:5.3f}",
            flush=True,
        )
    wall, cpu = (statistics.median(ratio) for ratio in zip(*ratios, strict=True))
    print(f"{'median of all':46}{wall:5.3f}  {cpu:5.3f}")


def _time(revision: Revision, command: str, place: Path) -> tuple[float, float]:
    """Return wall time and CPU time of a command."""
    words = (sys.executable, "-m", "kvbound", *command.split())
    begin, quiet = time.perf_counter(), subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=place, env=revision.environment(), stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{revision.commit}: kvbound {command}: exit code {process.returncode}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
