"""Exit codes and streams of all commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kvbound
from kvbound import cli
from kvbound.cli.interrupts import uninterrupted
from kvbound.errors import InfeasibleError, KvboundError, LimitError, MissingPackageError, install_command
from tests.cli.conftest import Run


def kvbound_process(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kvbound", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_as_a_module() -> None:
    process = kvbound_process("--version")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"kvbound {kvbound.__version__}\nHiGHS ")


def test_versions_in_full(run: Run) -> None:
    ran = run("--version", "-v")
    names = [line.split()[0] for line in ran.out.splitlines()]
    assert {"kvbound", "HiGHS", "python", "numpy", "numba", "kernel", "cache"} <= set(names)
    assert os.environ["KVBOUND_CACHE"] in ran.out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    commands = ("solve", "compare", "simulate", "check", "catalog", "export", "instance", "trace")
    for name in commands:
        assert f"\n  {name} " in ran.out
        assert run(name, "-h").code == 0
    assert "..." not in ran.out.partition("Commands:")[2]  # no summary is cut off


@pytest.mark.parametrize("argv", [(), ("instance",), ("trace",)])
def test_without_arguments_the_help_is_printed(argv: tuple[str, ...], run: Run) -> None:
    ran = run(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: kvbound")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KvboundError("no"), 70, "kvbound: no\n"),
        (InfeasibleError("full"), 4, "kvbound: full\n"),
        (LimitError("late"), 5, "kvbound: late\n"),
        (MissingPackageError("fast"), 7, f"kvbound: {install_command('fast')}\n"),
        (KeyboardInterrupt(), 130, "kvbound: interrupted\n"),
        (PermissionError(13, "Permission denied", "/etc/x"), 2, "kvbound: /etc/x: Permission denied\n"),
        (MemoryError("1 TB"), 2, "kvbound: this needs more memory than there is: 1 TB\n"),
    ],
)
def test_errors_have_their_exit_codes(
    error: BaseException, code: int, says: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert run() == (code, "", says)


def test_a_defect_is_a_sentence_unless_debugged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr(cli, "_run", fail)
    ran = run()
    assert ran.code == 70
    assert ran.err.count("\n") == 1
    assert "ZeroDivisionError: by nothing;" in ran.err
    assert "KVBOUND_DEBUG=1" in ran.err
    monkeypatch.setenv("KVBOUND_DEBUG", "1")
    assert "Traceback" in run().err


def test_a_closed_pipe_is_not_an_error(small: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = ["-m", "kvbound", "solve", str(small), "--method", "lru", "--out", str(tmp_path / "o")]
    ran = subprocess.run(
        [sys.executable, *command], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "o" / "schedule.npz").exists()


@pytest.mark.slow
def test_an_interrupt_keeps_the_best_so_far(tmp_path: Path) -> None:
    methods = ("--methods", "lru,exact", "--time-limit", "600")
    argv = ("compare", "native-r15-c25-b64", *methods, "--out", tmp_path / "o", "--json")
    process = kvbound_process(*argv)
    time.sleep(20)  # lru takes a second and exact many minutes
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "kvbound: interrupted\n"
    assert '"method": "lru"' in out
    assert (tmp_path / "o" / "lru" / "schedule.npz").exists()


@pytest.mark.parametrize("method", ["exact", "relax"])
def test_one_document_on_standard_output(method: str) -> None:
    """Output that a solver's library prints by itself, bypassing Python, must not mix with it."""
    process = kvbound_process("solve", "tiny-on-read", "--method", method, "--json")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["method"] == method


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_process_ends_does_not_change_its_exit_code(name: str) -> None:
    late = f"atexit.register(signal.raise_signal, signal.{name})"
    lines = "import atexit, signal", "from kvbound import cli", "cli.main = lambda: 5", late, "cli.script()"
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False)
    assert ran.returncode == 5


def test_ctrl_c_while_saving_takes_effect_afterwards() -> None:
    done = []

    @uninterrupted()
    def save() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
