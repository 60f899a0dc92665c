import shutil
from pathlib import Path

import numpy as np
import pytest

from kvbound.errors import InputError
from kvbound.recording.library import RECORDINGS, make_recordings
from kvbound.trace import read_trace
from tests.paths import DATA

QK = DATA / "attention" / "qk_native512_seq1_first200.npz"


def test_every_sequence_and_share_becomes_a_trace(tmp_path: Path) -> None:
    with np.load(QK) as recorded:
        for recording in RECORDINGS:  # the same tokens over and over, as many as are needed
            tokens = np.arange(recording.prefill_tokens + 2) % 200
            q, k = (np.repeat(recorded[name][:, :, tokens], recording.sequences, axis=0) for name in "qk")
            np.savez(tmp_path / recording.file, q=q, k=k)
    names = [path.name for path in make_recordings(tmp_path, tmp_path / "out", steps=2, shares=(0.4, 0.1))]
    assert len(names) == len(set(names)) == 12
    assert {"native512-seq3-top40.trace", "ext1024-seq1-top10.trace"} <= set(names)
    for name in names:
        trace = read_trace(tmp_path / "out" / name)
        assert (trace.layers, trace.decode_steps) == (5, 2)
        assert trace.prefill_tokens == (128 if name.startswith("native") else 512)
        assert trace.counts()[0, 0] == -(-trace.prefill_tokens * int(name[-8:-6]) // 100)
        assert trace.source
        assert trace.licence
        assert all(mass is not None for mass in trace.mass)


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    shutil.copy(QK, tmp_path / "other.npz")
    with pytest.raises(InputError, match="native512"):
        make_recordings(tmp_path, tmp_path)
