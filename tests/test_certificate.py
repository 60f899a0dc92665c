"""Certificates are read as they were written; errors name the damaged field or file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kvbound.certificate import Certificate, read_certificate, write_certificate
from kvbound.errors import InputError


@pytest.fixture
def certificate() -> Certificate:
    rng = np.random.default_rng(0)
    return Certificate(
        instance_sha256="ab" * 32,
        bound_s=1.25,
        scale=50,
        capacity=rng.integers(0, 9, (2, 7)),
        prices=rng.integers(0, 9, (6, 3, 2)),
        tier=1,
        whole=rng.integers(-1, 9, (3, 2)),
        theta=rng.integers(0, 9, (2, 4, 3, 2)),
    )


@pytest.mark.parametrize("divided", [False, True])
def test_round_trip(certificate: Certificate, tmp_path: Path, divided: bool) -> None:
    path = tmp_path / "certificate.npz"
    if divided:
        whole_writes = certificate.whole + 1
        certificate = dataclasses.replace(certificate, whole_writes=whole_writes)
    write_certificate(certificate, path)
    back = read_certificate(path)
    for name, values in certificate.arrays().items():
        assert np.array_equal(back.arrays()[name], values)
        assert back.arrays()[name].dtype == values.dtype
    assert back.arrays().keys() == certificate.arrays().keys()


@pytest.mark.parametrize(
    "name", ["schema", "bound_s", "scale", "tier", "capacity", "prices", "whole", "theta"]
)
def test_names_the_damaged_field(certificate: Certificate, tmp_path: Path, name: str) -> None:
    path = tmp_path / "certificate.npz"
    for damaged in (np.zeros((2, 2), np.float32), None):
        arrays = certificate.arrays() | {name: damaged}
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(InputError, match=name):
            read_certificate(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_names_the_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "certificate.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="certificate"):
        read_certificate(path)
