"""Progress, colours and widths in terminals and in files."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvbound.cli import console
from kvbound.report.tables import table

SLOW = """
import sys, time
from kvbound.cli import console
from kvbound.report.tables import table
from kvbound.report.tables import table
console._DELAY_S = 0.2
with console.Bar(quiet={quiet}) as bar:
    for n in range(30):
        time.sleep(0.03)
        bar(n + 1, 30, "first stage" if n < 15 else "second stage")
console.show("done")
"""


def run_in_terminal(quiet: bool, **environment: str) -> str:
    """Return stderr of a run in a terminal."""
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment
    command = [sys.executable, "-c", SLOW.format(quiet=quiet)]
    process = subprocess.Popen(command, stderr=slave, stdout=subprocess.PIPE, text=True, env=env)
    os.close(slave)
    seen = b""
    try:
        while part := os.read(master, 4096):
            seen += part
    except OSError:  # how a terminal says that nobody is there any more
        pass
    os.close(master)
    assert process.communicate()[0] == "done\n"
    return seen.decode()


def test_long_runs_show_rate_and_time_left() -> None:
    seen = run_in_terminal(quiet=False)
    assert "first stage" in seen
    assert "second stage" in seen
    assert re.search(r"\d+ %", seen)
    assert re.search(r"[\d.]+/s", seen)
    assert re.search(r"\d+:\d\d", seen)


def test_quiet_and_no_color() -> None:
    assert run_in_terminal(quiet=True) == ""
    colour = re.compile(r"\x1b\[[0-9;]*m")
    assert colour.search(run_in_terminal(quiet=False))
    assert not colour.search(run_in_terminal(quiet=False, NO_COLOR="1"))


def test_files_get_no_progress() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SLOW.format(quiet=False)], capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_short_runs_show_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with console.Bar() as bar:
        bar(1, 2, "half")
    assert capfd.readouterr() == ("", "")


def test_results_in_a_file_have_no_colours_and_no_wrapped_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvbound.report.tables import pairs_table, table

    monkeypatch.delenv("COLUMNS", raising=False)
    console.show(pairs_table([("name", "word " * 40)]), table(("a", ">b"), [("x" * 60, "y" * 60)]))
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert out.count("\n") == 4
    assert all(line == line.rstrip() for line in out.split("\n"))


def test_markup_in_names_is_not_interpreted(capfd: pytest.CaptureFixture[str]) -> None:
    console.show("x[bold]y :smile:")
    assert capfd.readouterr().out == "x[bold]y :smile:\n"


def test_one_json_document(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    console.show_json({"a": [1, None]})
    assert capfd.readouterr().out == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        console.show_json({"a": float("nan")})


def test_narrow_terminals_break_neither_numbers_nor_names(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    numbers = ("621,891", "1.000", "100.0", "102.9")
    console.show(table(("method", ">a\ntime", ">b", ">c", ">d"), [("recency-window", *numbers)]))
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1].split() == ["recency-window", *numbers]
    console.show("/a/folder/with-hyphens/result.json: 81.92 us, all of it KV writes 100.0 %; link binds.")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "/a/folder/with-hyphens/result.json:"
    assert "100.0 %;" in " / ".join(lines)


def test_output_during_a_run_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with console.Bar():
        print("from a policy")
    print("after it")
    assert capfd.readouterr() == ("after it\n", "from a policy\n")
