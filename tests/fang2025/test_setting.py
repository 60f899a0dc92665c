"""Derived values and refusals of settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kvbound.errors import InfeasibleError, InputError
from kvbound.fang2025 import Setting
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Rules
from kvbound.trace import Trace

SETTING = Setting(64, (3328.0, 3300.0), 2000, 18416, 4900e9, 450e9, 400e9, 500e9, name="here")
RESOURCES = {"hbm": 4900e9, "down": 450e9, "up": 400e9, "bus": 500e9}
NEAR = Tier("near", 18416, ("hbm",), ("hbm",))
FAR = Tier("far", None, ("bus", "down"), ("up", "bus"))
LLM = Llm("model", 2, 64, 2000, (3328.0, 3300.0))
TRACE = Trace.from_lists(2, [[[0, 1], [1]]])


def instance(
    tiers: tuple[Tier, ...] = (NEAR, FAR), rates: dict[str, float] = RESOURCES, **rules: Any
) -> Instance:
    return Instance("here", Memory("m", rates, tiers), LLM, Rules(accounting="fang2025", **rules), TRACE)  # type: ignore[arg-type]


def test_derived_values() -> None:
    assert (SETTING.layers, SETTING.room, SETTING.usable) == (2, 256, 255)
    assert SETTING.alpha_cap == 4900 / (4900 + 450)
    assert dataclasses.replace(SETTING, b_read=600e9).alpha_cap == 4900 / (4900 + 500)
    np.testing.assert_array_equal(SETTING.slot_bytes(np.array([[1, 2]])), [[3392, 3428]])
    tight = dataclasses.replace(SETTING, capacity=2000)
    assert (tight.room, tight.usable) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_bytes", 0), ("b_hbm", 0.0), ("b_read", float("nan")), ("b_write", float("inf")),
        ("b_internal", -1.0), ("weight_reads", ()), ("weight_reads", (-1.0,)), ("weight_bytes", -1.0),
        ("capacity", float("inf")), ("b_read", 500e9),
    ],
)  # fmt: skip
def test_bad_numbers(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"here: {field}: expected"):
        dataclasses.replace(SETTING, **{field: value})


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(InfeasibleError, match="do not fit"):
        dataclasses.replace(SETTING, capacity=1999.0)


def test_from_instance() -> None:
    assert Setting.from_instance(instance()) == SETTING
    ignored = instance(migration="none", initial="prefill-first")
    assert Setting.from_instance(ignored) == SETTING


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (instance(copies="exclusive"), "rules.copies"),
        (instance(timing="serial"), "rules.timing"),
        (instance(granularity=2), "rules.granularity"),
        (instance((NEAR, Tier("mid", 1e6, ("bus",), ("bus",)), FAR)), "memory.tiers"),
        (instance((Tier("near", 18416, ("hbm",), ("bus",)), FAR)), "memory.tiers.near"),
        (instance((Tier("near", 18416, ("hbm",), ()), FAR)), "memory.tiers.near.writes"),
        (instance((NEAR, Tier("far", None, ("down",), ("up",)))), "memory.tiers.far"),
        (instance((NEAR, Tier("far", None, ("bus",), ("up", "bus")))), "memory.tiers.far.reads"),
        (instance((NEAR, Tier("far", None, ("bus", "down"), ("bus",)))), "memory.tiers.far.writes"),
        (instance(rates=RESOURCES | {"down": 500e9}), "memory.tiers.far.reads"),
    ],
)
def test_instances_of_another_form(made: Instance, field: str) -> None:
    with pytest.raises(InputError, match=rf"here: {field}: expected .*") as error:
        Setting.from_instance(made)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("weights", "capacity", "room"),
    [(0.3, 2.3, 1), (2**54, 2**54 + 1, 1), (2**54, 2**54, 0), (2**54 - 1, float(2**54), 1)],
)
def test_capacity_is_counted_in_whole_bytes(weights: float, capacity: float, room: int) -> None:
    setting = dataclasses.replace(SETTING, item_bytes=1, weight_bytes=weights, capacity=capacity)
    assert setting.room == room
