"""Trees are read as they were written; errors name the damaged field or file."""

from pathlib import Path

import numpy as np
import pytest

import kvbound as kv
from kvbound.certificate import Certificate
from kvbound.errors import InputError
from kvbound.tree import COUNT, Question, Tree, read_tree, write_tree


def certificate(rng: np.random.Generator, *, divided: bool) -> Certificate:
    return Certificate(
        instance_sha256="ab" * 32,
        bound_s=0.0,
        scale=50,
        capacity=rng.integers(0, 9, (2, 7)),
        prices=rng.integers(0, 9, (6, 3, 2)),
        tier=1,
        whole=rng.integers(-1, 9, (3, 2)),
        theta=rng.integers(0, 9, (4 if divided else 2, 4, 3, 2)),
        whole_writes=rng.integers(-1, 9, (3, 2)) if divided else None,
    )


def tree(*, divided: bool = False) -> Tree:
    rng = np.random.default_rng(0)
    asked = Question(COUNT, 1, 0, 0, 1, 3)
    return Tree(
        "ab" * 32,
        1.25,
        parent=np.array([-1, 0, 0]),
        answer=np.array([-1, 0, 1]),
        questions=np.array([asked, (-1,) * 6, (-1,) * 6]),
        certificate=np.array([-1, 0, 1]),
        certificates=[certificate(rng, divided=divided) for _ in range(2)],
    )


@pytest.mark.parametrize("divided", [False, True])
def test_round_trip(tmp_path: Path, divided: bool) -> None:
    path, made = tmp_path / "proof.npz", tree(divided=divided)
    write_tree(made, path)
    back = read_tree(path)
    assert back.leaves == 2
    assert repr(back) == "<Tree of 2 leaves: no schedule takes less than 1.25 s>"
    assert back.arrays().keys() == made.arrays().keys()
    for name, values in made.arrays().items():
        assert np.array_equal(back.arrays()[name], values)
        assert back.arrays()[name].dtype == values.dtype


@pytest.mark.parametrize("name", [name for name in tree().arrays() if name != "instance_sha256"])
def test_names_the_damaged_field(tmp_path: Path, name: str) -> None:
    path = tmp_path / "proof.npz"
    for damaged in (np.zeros((2, 2), np.float32), None):
        arrays = tree().arrays() | {name: damaged}
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        with pytest.raises(InputError, match=name):
            read_tree(path)


def test_names_a_tree_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "proof.npz"
    np.savez(path, **tree().arrays() | {"scale": np.zeros(0, np.int64)})
    with pytest.raises(InputError, match="at least one certificate"):
        read_tree(path)


def test_names_another_instance(tmp_path: Path) -> None:
    path = tmp_path / "proof.npz"
    write_tree(tree(), path)
    with pytest.raises(InputError, match="the tree is another's"):
        read_tree(path, kv.read_instance("tiny-on-read"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_names_the_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "proof.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a tree of certificates"):
        read_tree(path)
