"""Files and folders are written atomically."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvbound import files
from kvbound.files import atomic_dir, atomic_write, check_writable
from kvbound.temporaries import MARK, sweep


class Broken(Exception):
    """Errors during a write, including an interrupt."""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write_half(target: Path, error: type[BaseException]) -> None:
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error


def fill_half(target: Path, error: type[BaseException]) -> None:
    with atomic_dir(target) as temporary:
        (temporary / "half").write_text("half")
        raise error


def test_a_file_appears_at_the_end_with_its_suffix(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.npz"
    with atomic_write(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
        assert (temporary.parent, temporary.suffix) == (target.parent, ".npz")
    assert target.read_text() == "one"
    assert names(target.parent) == ["a.npz"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_a_failure_leaves_no_file_or_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    for before in ([], ["a.txt"]):
        with pytest.raises(error):
            write_half(target, error)
        assert names(tmp_path) == before
        target.write_text("old")
    assert target.read_text() == "old"


def test_files_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    for text in ("one", "two"):
        with atomic_write(str(target)) as temporary:
            temporary.write_text(text)
    assert target.read_text() == "two"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "a") as temporary:  # noqa: PT011
        temporary.write_text("one")
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.trace"
    with atomic_dir(target) as temporary:
        (temporary / "x").write_text("one")
        assert not target.exists()
    assert names(target) == ["x"]
    assert names(target.parent) == ["a.trace"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_a_failure_leaves_no_folder_or_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a"
    for before in ([], ["a"]):
        with pytest.raises(error):
            fill_half(target, error)
        assert names(tmp_path) == before
        target.mkdir(exist_ok=True)
        (target / "old").write_text("old")
    assert names(target) == ["old"]


def test_folders_are_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic_dir(tmp_path / "a") as temporary:
            (temporary / name).write_text(name)
    assert names(tmp_path / "a") == ["two"]
    assert names(tmp_path) == ["a"]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    link.symlink_to(file)
    for text in ("new where the link leads nowhere", "replaced"):
        with atomic_write(link) as temporary:
            temporary.write_text(text)
        assert (link.is_symlink(), file.read_text()) == (True, text)
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with atomic_dir(tmp_path / "folder") as temporary:
        (temporary / "b").write_text("b")
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "real") == ["b"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe) as temporary:
        temporary.write_text("through")
    reader.join()
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    with atomic_write(link) as temporary:
        temporary.write_text("gone")
    assert stat.S_ISCHR(link.stat().st_mode)


def test_standard_output_stays_usable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is redirected to a file, which must not be replaced by another."""
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    for target in (Path("/dev/stdout"), link):
        with atomic_write(target) as temporary:
            temporary.write_text("stream\n")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "stream\nstream\nafter\n"


def test_a_failure_names_the_file_and_not_its_temporary_name(tmp_path: Path) -> None:
    def full() -> None:
        with atomic_dir(tmp_path / "out") as folder, atomic_write(folder / "a.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        full()
    assert caught.value.filename == str(tmp_path / "out" / "a.txt")
    assert names(tmp_path) == []


def test_an_error_caused_by_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    """For example when zipfile closes a file that it could not write."""

    def full() -> None:
        with atomic_write(tmp_path / "a.npz"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                raise ValueError("cannot close")

    with pytest.raises(OSError, match="No space") as caught:
        full()
    assert caught.value.filename == str(tmp_path / "a.npz")


def test_errors_of_flushing_to_disk_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="No space"), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("exchange", [True, False])
def test_other_files_in_a_folder_are_kept(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "out"
    for entries in (["old", "last"], ["new", "last"]):
        with atomic_dir(target, owned=lambda entry: entry.name != "notes", last="last") as folder:
            for name in entries:
                (folder / name).write_text(name)
        (target / "notes").write_text("mine")
    assert names(target) == ["last", "new", "notes"]
    assert names(tmp_path) == ["out"]


def test_the_current_folder_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_dir(".") as folder:
        (folder / "a").write_text("a")
    assert os.listdir(".") == ["a"]


def test_a_folder_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    with atomic_dir(tmp_path / "a") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


KILLED = """
import os, sys
from pathlib import Path
from kvbound import files
target, moment = Path(sys.argv[1]), int(sys.argv[2])
if len(sys.argv) > 3:
    files._exchange = lambda *_: False

def dying(function):
    def call(*arguments, **named):
        global moment
        moment -= 1
        if moment < 0:
            os._exit(9)
        return function(*arguments, **named)
    return call

for name in ("rename", "replace", "unlink", "rmdir", "chmod", "fsync"):
    setattr(os, name, dying(getattr(os, name)))
with files.atomic_dir(target, last="b") as folder:
    for name in ("a", "b"):
        with files.atomic_write(folder / name) as file:
            file.write_text("new")
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["no exchange"]])
def test_after_a_kill_at_any_moment_old_and_new_are_not_mixed(tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "out"
    for moment in range(40):
        with atomic_dir(target) as folder:
            for name in ("a", "b"):
                (folder / name).write_text("old")
        argv = [sys.executable, "-c", KILLED, str(target), str(moment), *options]
        code = subprocess.run(argv, check=False).returncode
        found = {
            entry.name: entry.read_text() for entry in target.iterdir() if not entry.name.startswith(MARK)
        }
        whole = [{"a": text, "b": text} for text in ("old", "new")]
        assert found in whole or (options and "b" not in found)
        with atomic_write(tmp_path / "beside") as file:
            file.write_text("")
        if code == 0:
            break
    assert code == 0
    assert names(tmp_path) == ["beside", "out"]


def test_leftovers_are_removed_but_not_files_being_written(tmp_path: Path) -> None:
    (tmp_path / f"{MARK}killed").mkdir()
    (tmp_path / f"{MARK}killed" / "half").write_text("half")
    (tmp_path / f"{MARK}killed.txt").write_text("half")
    (tmp_path / ".kvbound").write_text("somebody's own")
    with atomic_write(tmp_path / "a.txt") as file, atomic_dir(tmp_path / "b") as folder:
        sweep(tmp_path)
        assert file.exists()
        assert folder.exists()
        assert len(names(tmp_path)) == 3
    assert names(tmp_path) == [".kvbound", "a.txt", "b"]


def test_a_target_that_is_not_writable_is_found_early(tmp_path: Path) -> None:
    for target in (tmp_path / "new" / "deep" / "a.txt", tmp_path, Path("/dev/null")):
        check_writable(target)
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    for target in (Path("/proc/none/a.txt"), tmp_path / "file" / "a.txt"):
        with pytest.raises(OSError, match=str(target)):
            check_writable(target)
