"""What a new search of the library keeps of the one before."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kvbound.instance_io import LIBRARY
from kvbound.library import best_known
from tests.instances import best_known as search

NAME = "b1-8b-h100-nvme-p64"


def test_the_higher_bound_stays_with_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, file = best_known()[NAME], f"tiers/{NAME}.certificate.npz"
    assert before.bound_s is not None
    (tmp_path / "tiers").mkdir()
    shutil.copy(LIBRARY / file, tmp_path / file)
    monkeypatch.setattr(search, "LIBRARY", tmp_path)
    proved = search._proved(before)
    assert proved is not None
    (tmp_path / file).unlink()
    lower = replace(before, time_s=0.999 * before.time_s, bound_s=0.99 * before.bound_s)
    assert search._with_better_bound(lower, proved) == replace(lower, bound_s=before.bound_s)
    assert (tmp_path / file).is_file()
    higher = replace(before, bound_s=1.001 * before.bound_s)
    assert search._with_better_bound(higher, proved) is higher


def test_of_another_instance_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiers").mkdir()
    other = LIBRARY / "tiers" / "b8-8b-h100-nvme-p64.certificate.npz"
    shutil.copy(other, tmp_path / "tiers" / f"{NAME}.certificate.npz")
    monkeypatch.setattr(search, "LIBRARY", tmp_path)
    assert search._proved(best_known()[NAME]) is None
    assert search._proved(None) is None
