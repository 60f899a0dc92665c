"""``kvbound bound``: a certificate that ``kvbound check`` accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run


def test_a_certified_bound_and_its_certificate(run: Run, small: Path, tmp_path: Path) -> None:
    proof = tmp_path / "certificate.npz"
    ran = run("bound", small, "--certificate", proof, "--json")
    assert ran.code == 0
    bound = ran.json["bound"]
    assert bound["status"] == "certified"
    assert ran.json["certificate"] == str(proof)
    assert ran.json["time_s"] is None
    checked = run("check", small, proof)
    assert checked.code == 0
    assert "time lower bound" in checked.out
    exact = run("solve", small, "--method", "exact", "--json").json
    assert bound["time_s"] <= exact["time_s"]


def test_a_bound_claimed_too_high_is_rejected(run: Run, small: Path, tmp_path: Path) -> None:
    proof = tmp_path / "certificate.npz"
    run("bound", small, "--certificate", proof, "--time-limit", "1")
    with np.load(proof) as file:
        arrays = dict(file)
    arrays["bound_s"] = arrays["bound_s"] * (1 + 1e-9)
    np.savez(proof, **arrays)
    assert run("check", small, proof).code == 6


def test_solve_writes_the_certificate_too(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("solve", small, "--method", "dual", "--time-limit", "1", "--out", out).code == 0
    assert run("check", small, out / "certificate.npz").code == 0
    assert run("solve", small, "--method", "lru", "--out", out).code == 0
    assert not (out / "certificate.npz").exists()


def test_resumes_from_a_certificate(run: Run, small: Path, tmp_path: Path) -> None:
    proof = tmp_path / "certificate.npz"
    first = run("bound", small, "--certificate", proof, "--time-limit", "1", "--json").json
    ran = run("bound", small, "--resume", proof, "--certificate", proof, "--time-limit", "0", "--json")
    assert ran.code == 0
    assert ran.json["bound"]["status"] == "certified"
    assert ran.json["bound"]["time_s"] >= first["bound"]["time_s"]
    assert run("check", small, proof).code == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("instance_sha256", lambda value: np.array("0" * 64), "the certificate belongs to another"),
        ("theta", lambda value: value[:, :1], "shape"),
        ("scale", lambda value: value - 2000, "0 to 1000"),
        ("bound_s", lambda value: value * 2, "a certificate that proves its bound"),
        ("bound_s", lambda value: value * np.nan, "a certificate that proves its bound"),
    ],
)
def test_resumes_from_nothing_but_a_certificate_of_the_instance(
    run: Run, small: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], message: str
) -> None:
    proof = tmp_path / "certificate.npz"
    run("bound", small, "--certificate", proof, "--time-limit", "0")
    with np.load(proof) as file:
        arrays = dict(file)
    arrays[name] = change(arrays[name])
    np.savez(proof, **arrays)
    ran = run("bound", small, "--resume", proof, "--time-limit", "0")
    assert ran.code == 3
    assert message in ran.err


@pytest.mark.parametrize("place", ["", ".", "small.json/proof.npz"])
def test_a_certificate_path_that_is_not_writable_is_refused_early(
    run: Run, small: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before the run, not after it."""
    monkeypatch.chdir(small.parent)
    monkeypatch.setattr("kvbound.solvers.solve", lambda *_, **__: pytest.fail("worked"))
    ran = run("bound", small, "--certificate", place)
    assert ran.code == 2
    assert "--certificate: expected a file" in ran.err


def test_a_sample_must_be_a_share(run: Run, small: Path) -> None:
    assert run("bound", small, "--sample", "150%").code == 2
    assert run("bound", small, "--sample", "some").code == 2


def test_resuming_from_a_manipulated_certificate_still_gives_a_valid_bound(
    run: Run, small: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "certificate.npz"
    run("bound", small, "--certificate", proof, "--time-limit", "1")
    with np.load(proof) as file:
        arrays = dict(file)
    arrays |= {
        "bound_s": 0 * arrays["bound_s"],
        "capacity": arrays["capacity"] - 10**12,
        "theta": -arrays["theta"],
    }
    np.savez(proof, **arrays)
    ran = run("bound", small, "--resume", proof, "--time-limit", "0", "--json")
    assert ran.code == 0
    assert ran.json["bound"]["status"] == "certified"
