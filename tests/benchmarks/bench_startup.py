"""How long a person waits for nothing: the import, the help, the quick commands.

    python -m tests.benchmarks.bench_startup [RUNS]

Best of several runs, in new processes, beside a Python that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time

KVBOUND = ("-m", "kvbound")
WHAT: dict[str, tuple[tuple[str, ...], float | None]] = {
    "python alone": (("-c", "pass"), None),
    "import numpy": (("-c", "import numpy"), None),
    "import kvbound": (("-c", "import kvbound"), 0.3),
    "kvbound --help": ((*KVBOUND, "--help"), 0.5),
    "kvbound --version": ((*KVBOUND, "--version"), None),
    "kvbound instance list": ((*KVBOUND, "instance", "list"), None),
    "kvbound catalog memory": ((*KVBOUND, "catalog", "memory"), None),
    "kvbound simulate tiny-on-read": ((*KVBOUND, "simulate", "tiny-on-read", "--policy", "lru"), None),
    "kvbound solve tiny-on-read": ((*KVBOUND, "solve", "tiny-on-read"), None),
}
"""Arguments of Python, and the seconds promised."""


def main() -> None:
    """Print a line per command."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, (arguments, promised) in WHAT.items():
        seconds = min(_once(arguments) for _ in range(runs))
        promise = "" if promised is None else f"   promised: under {promised} s"
        print(f"{name:<32}{seconds:6.3f} s{promise}", flush=True)


def _once(arguments: tuple[str, ...]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
