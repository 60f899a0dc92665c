"""A tree of certificates: the proof of a time lower bound that no single certificate reaches.

An inner node asks a yes/no question about a schedule, and its two children take the two answers. A leaf has
the multipliers of a certificate, which bound the schedules that give the answers on its path. The least bound
of all leaves holds for every schedule; `kvbound.checker` recomputes it in integers.

Equations: "Optima by proof" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.certificate import BOUND, UNIT, Certificate, is_mixed
from kvbound.errors import InputError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.reading import open_npz
from kvbound.units import show

SCHEMA = "kvbound.tree/1"
STATE, COUNT, TOUCH = range(3)
"""The kinds of questions: is a block in a tier after a slot; does a slot read more than so many items; does a
tier serve reads of a slot."""
_CERTIFICATE = {"scale": 1, "capacity": 3, "prices": 4, "whole": 3, "theta": 5}
"""Arrays of all certificates, one behind the other, by name, and their numbers of axes."""


class Question(NamedTuple):
    """What an inner node asks of a schedule; a field that the kind does not use is 0.

    Attributes
    ----------
    kind
        `STATE`: is block `block` of layer `layer` in tier `tier` after slot (`step`, `layer`), or at the
        start if `step` is -1? `COUNT`: does slot (`step`, `layer`) read more than `value` items at tier
        `tier`, or move them from there without reading them?
        `TOUCH`: does tier `tier`, which has a latency, serve reads of slot (`step`, `layer`)?
    """

    kind: int
    step: int
    layer: int
    block: int = 0
    tier: int = 0
    value: int = 0


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree of certificates of one instance and the bound it proves.

    Attributes
    ----------
    bound_s
        Time lower bound in seconds, rounded down, or the lower bound of another objective.
    parent
        The number of each node's parent, a smaller one, -1 for the root, node 0; (nodes,).
    answer
        The answer to the parent's question that the node takes, 0 for no and 1 for yes, -1 for the root;
        (nodes,).
    questions
        The fields of `Question` of each inner node; -1 for leaves; (nodes, 6).
    certificate
        The position in `certificates` of each leaf's multipliers; -1 for inner nodes; (nodes,).
    certificates
        Multipliers, which may serve several leaves. Their own bounds mean nothing here.
    """

    instance_sha256: str
    bound_s: float
    parent: NDArray[np.int64]
    answer: NDArray[np.int64]
    questions: NDArray[np.int64]
    certificate: NDArray[np.int64]
    certificates: Sequence[Certificate]

    def __repr__(self) -> str:
        """Return the bound, in one line."""
        unit = UNIT[self.mixed]
        return f"<Tree of {self.leaves} leaves: no schedule takes less than {self.bound_s:.6g} {unit}>"

    @property
    def mixed(self) -> bool:
        """Whether it is of another objective than time alone."""
        return self.certificates[0].mixed

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return int(np.count_nonzero(self.certificate >= 0))

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of its file, by name."""
        names = [*_CERTIFICATE, *(["whole_writes"] if self.certificates[0].whole_writes is not None else [])]
        return {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(self.instance_sha256),
            BOUND[self.mixed]: np.float64(self.bound_s),
            "parent": self.parent,
            "answer": self.answer,
            **dict(zip(Question._fields, self.questions.T, strict=True)),
            "certificate": self.certificate,
            "split": np.int64(self.certificates[0].tier),
            **{
                name: np.stack([np.asarray(getattr(each, name), np.int64) for each in self.certificates])
                for name in names
            },
        }


def write_tree(tree: Tree, path: Path | str) -> None:
    """Write proof.npz atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **tree.arrays())


def read_tree(path: Path | str, instance: Instance | None = None) -> Tree:
    """Read proof.npz; verifying that it is a tree, and its bound, is left to the checker.

    Raises
    ------
    InputError
        The file is not a tree of certificates, or not one of the instance.
    """
    with open_npz(path, "a tree of certificates") as file:
        if (schema := file.text("schema")) != SCHEMA:
            raise InputError(path, "schema", f"{SCHEMA!r}, found {show(schema)}")
        sha256 = file.text("instance_sha256")
        if instance is not None and sha256 != instance.sha256:
            raise InputError(path, "instance_sha256", "the hash of this instance; the tree is another's")
        mixed = is_mixed(file.names, instance)
        bound_s = float(file.array(BOUND[mixed], np.float64))
        split = int(file.array("split", np.int64))
        parent = file.array("parent", np.int64, -1)
        of_nodes = {
            name: file.array(name, np.int64, len(parent))
            for name in ("answer", "certificate", *Question._fields)
        }
        axes = _CERTIFICATE | ({"whole_writes": 3} if "whole_writes" in file.names else {})
        scale = file.array("scale", np.int64, -1)
        if not len(scale):
            raise InputError(path, "scale", "at least one certificate")
        stacks = {
            name: file.array(name, np.int64, len(scale), *[-1] * (count - 1)) for name, count in axes.items()
        }
    certificates = [
        Certificate(
            sha256, 0.0, int(scale[n]), tier=split, mixed=mixed,
            **{name: stack[n] for name, stack in stacks.items() if name != "scale"},
        )
        for n in range(len(scale))
    ]  # fmt: skip
    questions = np.stack([of_nodes[name] for name in Question._fields], axis=1)
    return Tree(sha256, bound_s, parent, of_nodes["answer"], questions, of_nodes["certificate"], certificates)
