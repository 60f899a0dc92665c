from typing import Any

import pytest

from kvbound import workloads
from kvbound.errors import InputError
from kvbound.workloads import CountRule, Fang2025, RandomSwap

GOOD: dict[str, Any] = {"kind": "fang2025", "layers": 2, "prefill_tokens": 10, "decode_steps": 5}


def test_mappings_are_read_and_written() -> None:
    spec = workloads.from_mapping(GOOD | {"sparsity": "60%", "count_rule": "ceil(n+1)", "layers": 2.0})
    assert spec == Fang2025(2, 10, 5, count_rule=CountRule.CEIL_WITH_OWN)
    assert workloads.from_mapping(spec.to_mapping()) == spec
    assert all(type(value) in (int, float, str) for value in spec.to_mapping().values())
    assert workloads.from_mapping(GOOD | {"kind": "random-swap"}) == RandomSwap(2, 10, 5)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "fang"}, "kind"), ({"kind": 7}, "kind"), ({"kind": ...}, "kind"), ({"layers": 0}, "layers"),
        ({"layers": -1}, "layers"), ({"layers": "2"}, "layers"), ({"layers": 2.5}, "layers"),
        ({"layers": 10**6}, "layers"), ({"layers": ...}, "layers"), ({"prefill_tokens": 0}, "prefill_tokens"),
        ({"prefill_tokens": float("nan")}, "prefill_tokens"), ({"prefill_tokens": 10**12}, "prefill_tokens"),
        ({"decode_steps": 0}, "decode_steps"), ({"decode_steps": 2**27}, "decode_steps"),
        ({"sparsity": 1.5}, "sparsity"), ({"sparsity": -0.1}, "sparsity"), ({"sparsity": "many"}, "sparsity"),
        ({"variation": float("inf")}, "variation"), ({"variation": None}, "variation"),
        ({"threshold": 2}, "threshold"), ({"count_rule": "floor"}, "count_rule"), ({"seed": -1}, "seed"),
        ({"seed": 2**60}, "seed"), ({"seed": True}, "seed"), ({"seeds": 1}, "seeds"),
    ],
)  # fmt: skip
def test_wrong_numbers_are_named(change: dict[str, Any], field: str) -> None:
    mapping = {key: value for key, value in (GOOD | change).items() if value is not ...}
    with pytest.raises(InputError) as error:
        workloads.from_mapping(mapping, file="a.json", field="trace.synthetic")
    assert (error.value.file, error.value.field) == ("a.json", f"trace.synthetic.{field}")


def test_a_mapping_is_needed() -> None:
    with pytest.raises(InputError):
        workloads.from_mapping([1], file="a.json")  # type: ignore[arg-type]


def test_values_are_validated_on_construction() -> None:
    with pytest.raises(InputError, match="workload fang2025: sparsity"):
        Fang2025(2, 10, 5, sparsity=-1)
