"""Unusual arguments of public functions: accepted if their meaning is plain, else refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InputError, KvboundError, UsageError
from tests.cost_cases import toy


@pytest.mark.parametrize("value", ["tiny-on-read", Path("toy.json"), None, 3])
def test_only_instances_are_instances(value: Any) -> None:
    functions: Any = (kv.solve, kv.compare, kv.bound)
    for call in functions:
        with pytest.raises(
            UsageError, match=r"^expected an instance, not .*; kvbound.read_instance reads one$"
        ):
            call(value)
    functions = (kv.simulate, kv.check)
    for call in functions:
        with pytest.raises(UsageError, match=r"^expected an instance, not"):
            call(value, "lru")


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"seed": "x"}, {"seed": 1.5}, {"seed": None}, {"work": 0}, {"work": "3"}, {"work": 2.0},
     {"work": True}],
)  # fmt: skip
def test_counts(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(UsageError, match=rf"^{name}: expected an integer of at least [01], not"):
        kv.solve(toy(), "anneal", **options)


def test_numbers_may_be_numpy_numbers_or_text() -> None:
    numbers: Any = {"seed": np.int64(1), "work": np.int64(2)}
    assert kv.solve(toy(), "anneal", **numbers).time_s is not None
    first = kv.bound(toy(), sample="50%", time_limit="1s")
    for share in ("half", 2, -1):
        with pytest.raises(UsageError, match=r"^sample: expected a share"):
            kv.bound(toy(), sample=share)
    assert kv.bound(toy(), resume=first, time_limit=0).time_s is not None
    for wrong in (3, kv.simulate(toy(), "ideal").bound):
        with pytest.raises(UsageError, match=r"^resume: expected a certificate"):
            kv.bound(toy(), resume=wrong)
    with pytest.raises(InputError, match=r"nowhere\.npz"):
        kv.bound(toy(), resume="nowhere.npz")
    with pytest.raises(UsageError, match=r"^claimed_s: expected a time"):
        kv.check(toy(), kv.simulate(toy(), "lru"), claimed_s="soon")  # type: ignore[arg-type]


def test_lists_of_methods(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n def step(self, slot): return slot.read_now * 1.0\n")
    names: Any = np.array(["lru", "ideal"])
    assert [*kv.compare(toy(), names)["method"]] == ["lru", "ideal"]
    file: Any = tmp_path / "mine.py:Mine"
    assert [*kv.compare(toy(), [file])["method"]] == ["Mine"]
    assert {"lru", "exact"} <= {*kv.compare(toy(), ["all"], time_limit=1)["method"]}
    with pytest.raises(UsageError, match="methods: expected at least one"):
        kv.compare(toy(), [])


@pytest.mark.parametrize("overrides", [["a"], "a=1", {3: 1}])
def test_overrides_are_a_table(overrides: Any) -> None:
    with pytest.raises(InputError, match="overrides: expected a table of named fields"):
        kv.read_instance("tiny-on-read", overrides=overrides)


def test_rules_are_an_override() -> None:
    rules = kv.Rules(granularity=1)
    assert kv.read_instance("tiny-on-read", overrides={"rules": rules}).rules == rules


def test_ragged_masks() -> None:
    with pytest.raises(KvboundError, match=r"mask: expected booleans .*, not lists of different lengths"):
        kv.Trace.from_mask([[[True], [True, False]]], 1)
