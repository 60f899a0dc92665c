"""The events of a schedule's file: births and moves, validated so that they can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.arrays import array
from kvbound.checker.conclusion import settle
from kvbound.checker.inputs import Case, slot_name
from kvbound.checker.report import Ints, Refused, note


@dataclass(frozen=True)
class Events:
    """One layer's events in the file's order."""

    step: Ints
    token: Ints
    tier: Ints


def read_events(case: Case, arrays: Mapping[str, Any]) -> tuple[NDArray[np.uint8], list[Events]]:
    """Return the initial tiers and each layer's events; refuse what cannot be replayed."""
    initial = settle(case, array(arrays, "initial", "uint8", case.layers, case.prefill))
    most = case.steps * case.layers * case.tokens  # no item has two events in a slot
    slot, item = (array(arrays, name, "int64", -1, most=most) for name in ("slot", "item"))
    tier = array(arrays, "tier", "uint8", -1, most=most).astype(np.int64)
    if not slot.size == item.size == tier.size:
        raise Refused("slot, item and tier differ in length")
    life, prompt = case.life, case.life.block[: case.prefill]
    (step, layer), (owner, token) = np.divmod(slot, case.layers), np.divmod(item, case.tokens)
    birth = life.born[token] == step
    items = case.tokens * case.layers
    order = 2 * slot + birth
    rise, backward = np.diff(order), birth[1:] & (np.diff(token) < 0)
    unsorted = np.append(False, (rise < 0) | (rise == 0) & backward)
    pairs = np.sort(slot * items + item)
    divided = initial != initial[:, life.head[prompt]]
    problems: list[str] = []
    note(problems, initial.ravel() >= len(case.names), lambda _: "initial names a tier that does not exist")
    note(problems, divided.ravel(), lambda _: "initial differs within a block")
    for what, bad in {
        "its slot is outside the trace": (slot < 0) | (slot >= case.steps * case.layers),
        "its item is outside the trace": (item < 0) | (item >= items),
        "its tier does not exist": tier >= len(case.names),
        "events must be sorted by slot, moves before the births, and these by token": unsorted,
        "an item can change only in a slot of its own layer": owner != layer,
        "the item is moved before its birth": life.born[token] > step,
        "a move must name the first token of its block": ~birth & (token != life.head[life.block[token]]),
        "the item is moved in its last step, or after it": ~birth
        & (step >= _last_steps(case, layer, life.block[token])),
    }.items():
        note(problems, bad, lambda k, what=what: f"event {k}: {what}")  # type: ignore[misc]
    note(
        problems,
        np.diff(pairs) == 0,
        lambda k: f"{slot_name(case, pairs[k] // items)}: an item has two events",
    )
    born = np.arange(case.layers)[:, None] * case.tokens + np.arange(case.prefill, case.tokens)
    unborn = np.setdiff1d(born, item[birth])

    def describe_unborn(k: int) -> str:
        number, token = divmod(int(unborn[k]), case.tokens)
        slot = int(life.born[token]) * case.layers + number
        return f"{slot_name(case, slot)}: no birth of {case.named(token)}"

    note(problems, unborn >= 0, describe_unborn)
    if problems:
        raise Refused(*problems)
    parts = [np.flatnonzero(layer == number) for number in range(case.layers)]
    return initial, [Events(step[part], token[part], tier[part]) for part in parts]


def _last_steps(case: Case, layer: Ints, block: Ints) -> Ints:
    """Return the last step of blocks in their layers."""
    if not case.ends_differ:
        return case.life.last[block]
    lives = {id(life): life for life in case.lives}
    row = [list(lives).index(id(life)) for life in case.lives]
    return np.stack([life.last for life in lives.values()])[np.array(row)[layer], block]
