"""llama.cpp's placements: whole layers in tier 0, or all weights and no KV."""

from __future__ import annotations

from typing import Any

import pytest

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.policies import MoveRequest


def card(capacity: int, migration: str = "prefetch") -> Instance:
    """Two layers of 10 bytes of weights, and 4 tokens of 1 byte each; weights may be placed."""
    memory = {
        "name": "card",
        "resources": {"gpu": 10.0, "host": 1.0},
        "tiers": [
            {"name": "gpu", "capacity": capacity, "reads": ["gpu"], "writes": ["gpu"]},
            {"name": "host", "capacity": None, "reads": ["host"], "writes": ["host"]},
        ],
    }
    llm = {
        "name": "two", "layers": 2, "kv_bytes_per_token_layer": 1, "weight_bytes": 20,
        "weight_read_bytes_per_layer": 10, "weights": "placeable",
    }  # fmt: skip
    trace = {"prefill_tokens": 3, "reads": [[[0, 1, 2], [0, 1, 2]]]}
    rules = {"copies": "exclusive", "timing": "serial", "migration": migration}
    return make_instance("card", memory=memory, llm=llm, trace=trace, rules=rules)


def seconds(instance: Instance, policy: str, **options: Any) -> float:
    result = kv.simulate(instance, policy, **options)
    assert result.time_s is not None
    return result.time_s


@pytest.mark.parametrize("migration", ["none", "prefetch"])
def test_whole_layers(migration: str) -> None:
    """A layer takes 14 bytes: 10 + 3 read and 1 written on the card is 1.4 s, in host memory 14 s."""
    assert seconds(card(13, migration), "llamacpp-ngl") == pytest.approx(28)
    assert seconds(card(14, migration), "llamacpp-ngl") == pytest.approx(15.4)
    assert seconds(card(28, migration), "llamacpp-ngl") == pytest.approx(2.8)
    assert seconds(card(28, migration), "llamacpp-ngl", layers=1) == pytest.approx(15.4)
    assert seconds(card(28, migration), "llamacpp-ngl", layers=0) == pytest.approx(28)


def test_layers_that_do_not_fit_make_no_schedule() -> None:
    instance = card(14)
    found = kv.simulate(instance, "llamacpp-ngl", layers=2)
    assert (found.status, found.time_s) == ("unknown", None)
    assert "20 B of weights do not fit into gpu" in found.termination.message
    assert kv.solve(instance, "exact").time_s is not None


def test_all_weights_and_no_kv() -> None:
    """2 x 10 bytes of weights on the card take 2 s, 2 x (3 + 1) bytes of KV in host memory 8 s."""
    assert seconds(card(20), "llamacpp-nkvo") == pytest.approx(10)
    assert seconds(card(28), "llamacpp-nkvo") == pytest.approx(10)
    assert seconds(card(10), "llamacpp-nkvo") == pytest.approx(1 + 10 + 8)


def test_fit_keeps_a_gibibyte_free() -> None:
    assert seconds(card(28), "llamacpp-fit") == pytest.approx(28)
    assert seconds(card(2**30 + 13), "llamacpp-fit") == pytest.approx(28)
    assert seconds(card(2**30 + 14), "llamacpp-fit") == pytest.approx(15.4)


def test_wrong_numbers_of_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="whole number of layers"):
        kv.simulate(card(28), "llamacpp-ngl", layers=-1)


def test_they_are_compared_where_weights_may_be_placed() -> None:
    placed = card(20)
    methods = set(kv.compare(placed)["method"])
    assert {"llamacpp-ngl", "llamacpp-nkvo", "llamacpp-fit"} <= methods
    llm = placed.llm.to_mapping() | {"weights": "resident"}
    resident = make_instance("r", memory=placed.memory, llm=llm, trace=placed.workload, rules=placed.rules)
    assert "llamacpp-ngl" not in set(kv.compare(resident)["method"])


class Wrong:
    def place_weights(self, instance: Any) -> list[int]:
        return [0, 7]

    def step(self, slot: Any) -> MoveRequest:
        return MoveRequest()


class Host(Wrong):
    def place_weights(self, instance: Any) -> list[int]:
        return [1, 1]


def test_a_policy_of_ones_own_may_place_weights() -> None:
    assert seconds(card(28), Host()) == pytest.approx(20 + 0.8)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a tier for the weights of each layer"):
        kv.simulate(card(28), Wrong())  # type: ignore[arg-type]
