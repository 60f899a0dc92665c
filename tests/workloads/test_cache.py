import json
import os
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvbound.errors import UsageError
from kvbound.trace import Trace
from kvbound.workloads import Fang2025, cache
from kvbound.workloads.make import write_folder

SPECS = [Fang2025(1, 60, 40, seed=seed) for seed in range(4)]
SIZE = SPECS[0].packed_bytes


class Writer:
    """Makes a trace, and counts how often."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def fetch(self, seed: int) -> Trace:
        def write(folder: Path) -> None:
            self.made.append(seed)
            write_folder(SPECS[seed], folder)

        return cache.fetch(SPECS[seed], write)


@pytest.fixture
def writer() -> Writer:
    return Writer()


def entry(folder: Path, seed: int) -> Path:
    return folder / f"{cache.key(SPECS[seed])}.trace"


def test_a_trace_is_made_once(writer: Writer) -> None:
    first, second = writer.fetch(0), writer.fetch(0)
    assert writer.made == [0]
    assert first.row_hashes() == second.row_hashes() == list(second.known_hashes or ())
    assert writer.fetch(1).row_hashes() != first.row_hashes()
    assert first is second  # opened once: mapped twice, its pages would count twice


def test_changed_files_are_verified_and_made_again(writer: Writer, cache_folder: Path) -> None:
    hashes = writer.fetch(0).row_hashes()
    file = entry(cache_folder, 0) / "layer-000.npy"
    os.utime(file)  # touched, not changed: verified again and kept
    assert writer.fetch(0).row_hashes() == hashes
    assert writer.made == [0]
    kept = writer.fetch(0)
    damaged = bytearray(file.read_bytes())
    damaged[-20] ^= 1
    for damage in (bytes(damaged), damaged[:200], b""):
        file.write_bytes(damage)
        assert writer.fetch(0).row_hashes() == hashes
    assert writer.fetch(0) is not kept
    for name in ("stamp.json", "header.json"):
        for text in ("", "[]", '{"files": 1}'):
            (entry(cache_folder, 0) / name).write_text(text)
            assert writer.fetch(0).row_hashes() == hashes


def test_the_least_recently_used_trace_is_removed_first(
    writer: Writer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, seed in enumerate((2, 0, 1)):
        writer.fetch(seed)
        os.utime(entry(cache_folder, seed), (age, age))
    writer.fetch(2)  # used again: now the youngest
    full = sum(file.stat().st_size for file in entry(cache_folder, 0).iterdir())
    monkeypatch.setenv("KVBOUND_CACHE_LIMIT", f"{2 * full + SIZE}B")
    writer.fetch(3)
    assert [seed for seed in range(4) if entry(cache_folder, seed).exists()] == [1, 2, 3]
    assert writer.made == [2, 0, 1, 3]


@pytest.mark.skipif(
    find_spec("fcntl") is None, reason="no locks on this system: open files cannot be removed"
)
def test_a_trace_in_use_stays(writer: Writer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = writer.fetch(0)
    writer.fetch(1)
    monkeypatch.setenv("KVBOUND_CACHE_LIMIT", f"{SIZE}B")
    writer.fetch(2)
    assert [seed for seed in range(3) if entry(cache_folder, seed).exists()] == [0, 2]
    del kept
    writer.fetch(3)
    assert not entry(cache_folder, 0).exists()


def test_a_trace_too_large_is_refused(
    writer: Writer, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBOUND_CACHE_LIMIT", "100B")
    with pytest.raises(UsageError, match=r"cache holds 100 B; KVBOUND_CACHE_LIMIT"):
        writer.fetch(0)
    monkeypatch.setenv("KVBOUND_CACHE_LIMIT", "many")
    with pytest.raises(UsageError, match="KVBOUND_CACHE_LIMIT"):
        writer.fetch(0)
    monkeypatch.delenv("KVBOUND_CACHE_LIMIT")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UsageError, match="KVBOUND_CACHE names another folder"):
        writer.fetch(0)
    assert not writer.made


def test_a_folder_that_cannot_be_created(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("KVBOUND_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be made"):
        writer.fetch(0)


def test_leftovers_of_killed_runs_are_removed(writer: Writer, cache_folder: Path) -> None:
    leftover = cache_folder / ".kvbound-killed"
    (leftover / "half").mkdir(parents=True)
    writer.fetch(0)
    assert not leftover.exists()


def test_failing_to_make_leaves_nothing(cache_folder: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "layer-000.npy").write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.fetch(SPECS[0], fail)
    assert not [file for file in cache_folder.iterdir() if file.is_dir()]


@pytest.mark.skipif(find_spec("fcntl") is None, reason="no locks on this system")
def test_two_at_a_time_make_it_once(writer: Writer) -> None:
    def slow(folder: Path) -> None:
        writer.made.append(0)
        time.sleep(0.2)
        write_folder(SPECS[0], folder)

    traces: list[Trace] = []
    threads = [threading.Thread(target=lambda: traces.append(cache.fetch(SPECS[0], slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.made == [0]
    assert len({tuple(trace.row_hashes()) for trace in traces}) == 1


@pytest.mark.skipif(find_spec("fcntl") is None, reason="no locks on this system")
def test_two_processes_share_one_cache(cache_folder: Path) -> None:
    code = (
        "from kvbound import workloads as w; import json\n"
        "print(json.dumps(w.make(w.Fang2025(5, 1500, 1000)).row_hashes()))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(run.communicate()[0]) for run in runs]
    assert answers[0] == answers[1]
    assert len(list(cache_folder.glob("*.trace"))) == 1


def test_keys_differ_for_every_difference() -> None:
    specs = [*SPECS, Fang2025(2, 60, 40), Fang2025(1, 61, 40), Fang2025(1, 60, 40, variation=0.2)]
    assert len({cache.key(spec) for spec in specs}) == len(specs)
    assert cache.key(Fang2025(1, 60, 40)) == cache.key(SPECS[0])


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVBOUND_CACHE", "/here")
    assert cache.folder() == Path("/here")
    monkeypatch.delenv("KVBOUND_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "kvbound"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "kvbound"
    assert cache.limit() == 8e9
