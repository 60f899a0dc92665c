"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from kvbound.files import atomic_dir, atomic_write


class Broken(Exception):
    """Whatever may go wrong while writing; an interruption too."""


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


def test_nothing_is_written_where_a_folder_stands(tmp_path: Path) -> None:
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
