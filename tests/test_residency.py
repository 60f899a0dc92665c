"""Residencies: their temporary files, and files that are read back or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.placement import read_placement
from kvbound.progress import silent
from kvbound.residency import Residency
from kvbound.solvers.eviction import balanced
from kvbound.solvers.warm_start import examine
from kvbound.trace.timeline import Timeline


@pytest.fixture(scope="module")
def instance() -> Instance:
    return kv.read_instance("swap-1x200-c30-b450")


@pytest.fixture
def arrays(instance: Instance) -> dict[str, Any]:
    residency = next(balanced.schedules(instance, silent)).residency
    return dict(residency.arrays(instance_sha256=instance.sha256, tokens=instance.tokens))


def _read(instance: Instance, arrays: dict[str, Any], folder: Path) -> Any:
    np.savez(folder / "schedule.npz", **arrays)
    return read_placement(folder / "schedule.npz", instance)


def test_read_back(instance: Instance, arrays: dict[str, Any], tmp_path: Path) -> None:
    known = _read(instance, arrays, tmp_path)
    assert isinstance(known, Residency)
    assert np.array_equal(known.initial, arrays["initial"])
    assert np.array_equal(known.after(0), arrays["after_0"])
    assert examine(instance, known) is known


def test_its_files_are_closed_when_it_is_no_longer_used() -> None:
    residency = Residency([Timeline.of(0, 3)])
    residency.put(0, np.ones((3, 8), np.uint8))
    file, bits = residency._files[0][0], residency.after(0)
    del residency
    assert file.closed
    assert bits.sum() == 24  # arrays in use stay valid


def test_no_file_remains_when_the_process_is_killed(tmp_path: Path) -> None:
    lines = """
import os, signal
import numpy as np
from kvbound.residency import Residency
from kvbound.trace.timeline import Timeline
residency = Residency([Timeline.of(0, 3)])
residency.put(0, np.ones((3, 8), np.uint8))
assert residency.after(0).sum() == 24
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run(
        [sys.executable, "-c", lines], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("schema", np.array("kvbound.residency/9")),
        ("instance_sha256", np.array("0" * 64)),
        ("initial", None),
        ("initial", np.zeros((1, 3), np.uint8)),
        ("after_0", None),
        ("after_0", np.zeros((2, 8), np.uint8)),
        ("after_0", np.zeros((200, 64), np.int64)),
    ],
)
def test_wrong_fields_are_named(
    instance: Instance, arrays: dict[str, Any], tmp_path: Path, name: str, wrong: Any
) -> None:
    kept = {key: value for key, value in arrays.items() if key != name}
    with pytest.raises(InputError, match=name):
        _read(instance, kept if wrong is None else kept | {name: wrong}, tmp_path)


def test_a_file_cut_short(instance: Instance, arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **arrays)
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(InputError, match="a schedule file"):
            read_placement(tmp_path / "cut.npz", instance)


def test_more_than_the_capacity_is_no_start(
    instance: Instance, arrays: dict[str, Any], tmp_path: Path
) -> None:
    known = _read(instance, arrays | {"initial": np.zeros_like(arrays["initial"])}, tmp_path)
    with pytest.raises(InputError, match="keeps the instance's rules"):
        examine(instance, known)
