from pathlib import Path

import numpy as np
import pytest

from kvbound import workloads
from kvbound.trace import read_trace
from kvbound.workloads import Fang2025, make
from kvbound.workloads.make import IN_MEMORY_BYTES, write_folder
from kvbound.workloads.synthetic import OneSequence

SMALL = Fang2025(3, 200, 300)
LARGE = Fang2025(5, 1500, 1000, variation=0.05)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("spec", [SMALL, LARGE])
def test_bytes_do_not_depend_on_the_workers(tmp_path: Path, spec: OneSequence) -> None:
    written = []
    for workers in (1, 2, 5):
        (tmp_path / str(workers)).mkdir()
        write_folder(spec, tmp_path / str(workers), workers=workers)
        written.append(files(tmp_path / str(workers)))
    assert written[0] == written[1] == written[2]
    trace = read_trace(tmp_path / "1")  # passes every check
    assert trace.row_hashes() == make(spec).row_hashes()
    assert np.array_equal(trace.counts(), workloads.shape(spec)[3])
    assert str(spec.seed) in trace.source


def test_small_traces_are_not_cached(cache_folder: Path) -> None:
    assert SMALL.packed_bytes <= IN_MEMORY_BYTES < LARGE.packed_bytes
    trace = make(SMALL)
    assert not cache_folder.exists()
    assert not any(rows.flags.writeable for rows in trace.rows)
    make(LARGE)
    assert cache_folder.exists()


@pytest.mark.parametrize(("spec", "workers"), [(SMALL, 1), (LARGE, 1), (LARGE, 2)])
def test_progress_and_interruption(cache_folder: Path, spec: OneSequence, workers: int) -> None:
    told: list[float] = []

    def interrupt(done: float, total: float, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(spec, interrupt, workers=workers)
    assert not [file for file in cache_folder.glob("*") if file.is_dir()]
    make(spec, lambda done, total, note: told.append(done / total), workers=workers)
    assert told == sorted(told)
    assert told[-1] == 1
