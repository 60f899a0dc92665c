"""Runs jobs one after the other, in one process to save the time of starting, with the kvbound of PYTHONPATH.

Standard input is a JSON list of jobs: a new folder, and commands to run there, each a list of words. What
number N prints goes to ``NN-out.txt`` and ``NN-err.txt``. After all of them the commands go to `DONE`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

DONE = "done.json"
"""Marks the folder of a job whose commands have all run."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main() -> None:
    """Run all jobs, whether their commands fail or not."""
    for folder, commands in json.load(sys.stdin):
        os.makedirs(folder)
        os.chdir(folder)
        _run_job(commands)
        Path(DONE).write_text(json.dumps(commands), encoding="utf-8")


def _run_job(commands: list[list[str]]) -> None:
    for number, words in enumerate(commands):
        for descriptor, kind in (1, "out"), (2, "err"):
            file = os.open(f"{number:02}-{kind}.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, descriptor)
            os.close(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a command ignores once it has ended
        begin, code = time.process_time(), _run(words)
        print(*words, "ends with", code, f"(took {time.process_time() - begin:.2f} s)", flush=True)
        sys.stderr.flush()
        if code == INTERRUPTED:
            sys.exit(INTERRUPTED)


def _run(words: list[str]) -> object:
    """Run a command line, or a use of the public API, and return the exit code or the exception."""
    try:
        match words:
            case "api", name:
                _api(name)
            case "model", name:
                _model(name)
            case _:
                sys.argv = ["kvbound", *words]
                runpy.run_module("kvbound", run_name="__main__")
    except SystemExit as error:
        return error.code
    except Exception as error:
        return repr(error)
    return 0


def _api(name: str) -> None:
    import kvbound

    instance = kvbound.read_instance(name)
    print("ideal", kvbound.ideal(instance))
    for policy in "lru", "belady":
        result = kvbound.simulate(instance, policy)
        assert isinstance(result.schedule, kvbound.Schedule)
        measures = dataclasses.asdict(kvbound.evaluate(instance, result.schedule))
        print(policy, json.dumps(measures, indent=1), kvbound.check(instance, result).ok)
        print(result.schedule.to_frame().to_csv())


def _model(name: str) -> None:
    import kvbound
    from kvbound.models import placement_model

    model = placement_model(kvbound.read_instance(name))
    model.write("pyomo.lp", io_options={"symbolic_solver_labels": True})


if __name__ == "__main__":
    main()
