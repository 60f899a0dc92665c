"""Writing results: atomically, never over those of another instance, and with failures while saving."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvbound.cli.interrupts import interruptible, uninterrupted
from kvbound.temporaries import MARK
from tests.cli.conftest import Run, contents


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_other_files_in_the_folder_stay(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for method in ("lru", "best"):
        assert run("solve", small, "--method", method, "--out", out).code == 0
        (out / "notes.txt").write_text("mine")
    assert names(out) == ["notes.txt", "result.json"]
    assert run("compare", small, "--methods", "lru,lfu", "--out", out).code == 0
    assert run("compare", small, "--methods", "lru", "--out", out).code == 0
    assert names(out) == ["compare.csv", "compare.json", "lru", "notes.txt", "result.json"]


@pytest.mark.parametrize(
    "argv", [("solve", "--method", "lru"), ("simulate", "--policy", "lru"), ("compare", "--methods", "lru")]
)
def test_another_instances_result_is_not_replaced(
    run: Run, small: Path, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    command, *options = argv
    out = ("--out", tmp_path / "out")
    assert run(command, small, *options, *out).code == 0
    before = contents(tmp_path / "out")
    ran = run(command, "tiny-on-read", *options, *out)
    assert (ran.code, ran.out) == (2, "")
    assert "another instance, 'small'" in ran.err
    assert contents(tmp_path / "out") == before
    for file in (tmp_path / "out").rglob("result.json"):
        file.write_text("{")  # of no instance
    assert run(command, "tiny-on-read", *options, *out).code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ("solve", "SMALL", "--out"),
        ("simulate", "SMALL", "--policy", "lru", "--out"),
        ("compare", "SMALL", "--out"),
        ("reproduce", "fang2025", "--out"),
        ("bound", "SMALL", "--certificate"),
        ("export", "SMALL", "-o"),
        ("instance", "expand", "SMALL", "-o"),
        ("instance", "make", "--memory", "gh200-144", "--llm", "llama-3.1-8b", "--trace", "t", "-o"),
        ("trace", "synth", "--layers", "1", "--prefill", "2", "--steps", "2", "-o"),
        ("trace", "export", "t.trace", "-o"),
    ],
)
def test_a_target_that_is_not_writable_is_refused_before_the_run(
    run: Run, small: Path, argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError

    for name in (
        "solvers.solve",
        "studies.runs.run_cell",
        "workloads.cache.fetch",
        "trace.read_trace",
    ):
        monkeypatch.setattr(f"kvbound.{name}", work)
    given = [str(small) if arg == "SMALL" else arg for arg in argv]
    ran = run(*given, "/proc/none/x")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "kvbound: /proc/none/x: No such file or directory\n"


def test_a_dash_means_standard_output_for_a_single_file(run: Run, small: Path, tmp_path: Path) -> None:
    whole = tmp_path / "a.mps"
    assert run("export", small, "-o", whole).code == 0
    assert run("export", small, "-o", "-", "-q").out == whole.read_text()
    assert run("instance", "expand", small, "-o", tmp_path / "e.json").code == 0
    ran = run("trace", "export", tmp_path / "e.trace", "-o", "-")
    assert ran.out.startswith("n,l,read_kv\n4,0,")
    for argv in (
        ("solve", small, "--out"),
        ("bound", small, "--certificate"),
        ("instance", "expand", small, "-o"),
        ("trace", "synth", "--layers", "1", "--prefill", "2", "--steps", "2", "-o"),
    ):
        assert run(*argv, "-").code == 2
    assert not Path("-").exists()


def limited(*argv: object, size: int) -> subprocess.CompletedProcess[str]:
    """Run kvbound with a limited file size, as on a nearly full disk."""
    command = [sys.executable, "-m", "kvbound", *map(str, argv)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


@pytest.mark.parametrize(
    ("argv", "file"),
    [
        (("solve", "tiny-on-read", "--method", "belady", "--json", "--out", "o"), "o/schedule.npz"),
        (("compare", "tiny-on-read", "--methods", "lru", "--json", "--out", "o"), "o/lru/schedule.npz"),
        (("bound", "tiny-on-read", "--time-limit", "1", "--json", "--certificate", "c.npz"), "c.npz"),
    ],
)
def test_on_a_full_disk_the_result_is_still_printed(
    tmp_path: Path, argv: tuple[str, ...], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = limited(*argv, size=600)
    assert ran.returncode == 2
    assert json.loads(ran.stdout)["schema"].startswith("kvbound.")
    assert ran.stderr == f"kvbound: {file}: File too large\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize("form", ["mps", "lp"])
def test_on_a_full_disk_an_export_is_not_reported_as_written(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = limited("export", "tiny-on-read", "--format", form, "-o", "a", size=2000)
    assert ran.returncode == 2
    assert "wrote" not in ran.stderr
    assert ran.stderr.startswith("kvbound: a: ")
    assert names(tmp_path) == []


def test_signals_in_quick_succession_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    heard = 0
    with interruptible():
        for after in (0.0, 0.01, 0.02, 2.0):
            now = 10.0 + after
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                try:
                    signal.raise_signal(number)
                except KeyboardInterrupt:
                    heard += 1
    assert heard == 2


def test_ignored_signals_stay_ignored() -> None:
    """For example under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_saving_takes_effect_afterwards(number: int) -> None:
    done = []

    def save() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append(True)

    with interruptible(), pytest.raises(KeyboardInterrupt):
        save()
    assert done


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 3])
def test_a_terminated_process_saves_its_best_result(tmp_path: Path, numbers: list[int]) -> None:
    argv = ("solve", "native-r15-c25-b64-n64", "--method", "anneal", "--time-limit", "600", "--gap", "0")
    command = [sys.executable, "-m", "kvbound", *argv, "--out", str(tmp_path / "o"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(10)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "kvbound: interrupted\n")
    assert json.loads(out) == json.loads((tmp_path / "o" / "result.json").read_text())
    assert (tmp_path / "o" / "schedule.npz").exists()


@pytest.mark.slow
def test_after_a_kill_at_any_moment_result_and_schedule_match(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kvbound", "simulate", "tiny-on-read", "--out", str(out), "--policy"]
    begin = time.monotonic()
    subprocess.run([*command, "lru"], capture_output=True, check=True)
    took = time.monotonic() - begin
    for number in range(15):
        process = subprocess.Popen([*command, ("belady", "lru")[number % 2]], stdout=subprocess.DEVNULL)
        time.sleep(took * (0.7 + number / 50))
        process.kill()
        process.wait()
        check = [sys.executable, "-m", "kvbound", "check", "tiny-on-read", str(out)]
        assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    subprocess.run([*command, "lru"], capture_output=True, check=True)
    assert names(tmp_path) == ["out"]


def test_a_mount_point_is_written_into(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example in a container, where a mounted folder for results cannot be renamed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{MARK}killed").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    number = out.stat().st_ino
    for method in ("lru", "best"):
        assert run("solve", small, "--method", method, "--out", out).code == 0
    assert (names(out), out.stat().st_ino) == (["result.json"], number)
    assert names(tmp_path) == ["out", "small.json"]


def test_a_comparison_and_a_result_in_one_folder_are_of_one_instance(
    run: Run, small: Path, tmp_path: Path
) -> None:
    one, other = ("solve", "--method", "lru"), ("compare", "--methods", "lru,lfu")
    for n, ((first, *options), (second, *more)) in enumerate(((one, other), (other, one))):
        out = ("--out", tmp_path / f"out{n}")
        assert run(first, small, *options, *out).code == 0
        ran = run(second, "tiny-on-read", *more, *out)
        assert (ran.code, ran.out) == (2, "")
        assert "another instance, 'small'" in ran.err
        assert run(second, small, *more, *out).code == 0
    apart = tmp_path / "apart"  # folders of several instances beside each other
    assert run("solve", small, "--method", "lru", "--out", apart / "small").code == 0
    assert run("solve", "tiny-on-read", "--method", "lru", "--out", apart).code == 0


@pytest.mark.parametrize("stream", ["1", "2"])
def test_closed_streams(small: Path, stream: str) -> None:
    command = f"{sys.executable} -m kvbound compare {small} --methods lru {stream}>&-"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert bool(ran.stdout) == (stream == "2")
