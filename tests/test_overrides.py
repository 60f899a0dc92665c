"""Overrides set existing fields, and refuse other paths."""

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.overrides import apply

NAME = "native-r15-c25-b64-n64"


def document() -> dict[str, Any]:
    return {
        "memory": {
            "name": "m",
            "resources": {"hbm": 1, "pcie_down": 2},
            "tiers": [{"name": "hbm", "capacity": 3}, {"name": "dram", "capacity": None}],
        },
        "rules": {},
    }


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("memory.resources.hbm", ("memory", "resources", "hbm")),
        ("memory.tiers.dram.capacity", ("memory", "tiers", 1, "capacity")),
        ("memory.tiers.0.capacity", ("memory", "tiers", 0, "capacity")),
        ("memory.tiers.hbm.latency", ("memory", "tiers", 0, "latency")),  # absent, but a field readers know
        ("rules.migration", ("rules", "migration")),
    ],
)
def test_existing_fields_are_set(path: str, keys: tuple[Any, ...]) -> None:
    changed: Any = document()
    apply(changed, path, 7, "file")
    for key in keys:
        changed = changed[key]
    assert changed == 7


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("memory.resources.pcie_dwn", "did you mean 'pcie_down'"),
        ("resources.hbm", "did you mean 'memory.resources.hbm'"),
        ("memory.tiers.hmb.capacity", "did you mean 'hbm'"),
        ("memory.tiers.2.capacity", "did you mean"),
        ("memory.name.first", "did you mean"),
        ("rule", "did you mean 'rules'"),
        ("x", "paths begin with memory, rules"),
        ("", "paths begin with"),
    ],
)
def test_unknown_paths_are_refused_with_a_hint(path: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as refused:
        apply(document(), path, 7, "file")
    assert refused.value.field == f"overrides.{path}"


def test_library_instances_take_overrides_too() -> None:
    plain = kv.read_instance(NAME)
    slow = kv.read_instance(NAME, overrides={"memory.resources.pcie_down": "32GB/s"})
    assert slow.memory.resources["pcie_down"] == 32e9
    assert slow.sha256 != plain.sha256
    assert kv.read_instance(NAME, overrides={}).sha256 == plain.sha256
    with pytest.raises(InputError, match="pcie_dwn"):
        kv.read_instance(NAME, overrides={"memory.resources.pcie_dwn": "32GB/s"})


def test_another_memory_keeps_the_file_s_own_overrides() -> None:
    plain, other = kv.read_instance(NAME), kv.read_instance(NAME, overrides={"memory": "gh200-144"})
    assert other.memory.name == "gh200-144"
    assert other.memory.tiers[0].capacity == plain.memory.tiers[0].capacity


def test_fields_of_a_synthetic_trace_may_be_set() -> None:
    assert kv.read_instance("paper-low", overrides={"trace.synthetic.decode_steps": 7}).decode_steps == 7
    with pytest.raises(InputError, match="did you mean 'decode_steps'"):
        kv.read_instance("paper-low", overrides={"trace.synthetic.decode_step": 7})


def test_numpy_s_numbers_are_numbers() -> None:
    plain = kv.read_instance(NAME)
    parts: dict[str, Any] = {"memory": plain.memory, "llm": plain.llm, "trace": plain.trace}
    changes = {"memory.resources.pcie_down": np.int64(32 * 10**9), "rules.granularity": np.int32(2)}
    made = kv.make_instance("n", **parts, overrides=changes, capacity=np.int64(10**7))
    assert (made.memory.resources["pcie_down"], made.granularity) == (32e9, 2)
    assert made.memory.tiers[0].capacity == 1e7
    assert kv.make_instance("n", **parts, rules={"granularity": np.int64(2)}).granularity == 2


@pytest.mark.parametrize("capacity", [0.3, "0.3", "1e-3", np.float64(0.5)])
def test_a_bare_fraction_is_refused_as_capacity(capacity: Any) -> None:
    with pytest.raises(InputError, match=r"a share such as 30% or a size such as 0\.3GB, not"):
        kv.read_instance(NAME, overrides={"memory.tiers.hbm.capacity": capacity})
    plain = kv.read_instance(NAME)
    with pytest.raises(InputError, match="a share such as 30%"):
        kv.make_instance("x", memory=plain.memory, llm=plain.llm, trace=plain.trace, capacity=capacity)
