"""The cheapest paths of all items where reads are dense, in closed form and exact integers.

Items of a layer that end in the same step differ in their births alone: they cost the same from every slot
on. One pass over steps serves all of them, and all layers.
"""

from __future__ import annotations

import numpy as np

from kvbound.checker.inputs import Case
from kvbound.checker.multipliers import Multipliers
from kvbound.checker.report import Ints


def sum_of_paths(case: Case, given: Multipliers, forced: Ints | None) -> int:
    """Return the summed prices of the cheapest paths of all items, by one pass over steps for all layers.

    Items of a layer with the same last step cost the same from every slot on. `forced` has the tiers in which
    the prompt's items start, (layers, prompt), if a rule determines them.
    """
    tiers, slots = len(case.names), case.steps * case.layers
    last = tiers - 1 if case.rules["copies"] == "inclusive" else tiers
    running = np.concatenate([np.zeros((tiers, 1), np.int64), np.cumsum(given.capacity, axis=1)], axis=1)
    units, layer = np.array(case.units, np.int64).T, np.arange(case.layers)
    ends, of_token = _classes(case)
    births = _births(case, of_token)
    path = np.zeros((tiers, case.layers, len(ends)), np.int64)
    total = 0
    for step in reversed(range(case.steps)):
        at = step * case.layers + layer
        hold = units * (running[:, np.minimum(at + 1 + case.layers, slots + 1)] - running[:, at + 1])
        read, _, write = given.prices[:, step].reshape(3, tiers, case.layers, 1)
        first = int(np.searchsorted(ends, step))
        alive = path[:, :, first:]  # those that have not ended
        alive += hold[:, :, None]
        leaving = int(np.searchsorted(ends, step, side="right")) - first
        alive[:, :, :leaving] = 0
        if born := births[step]:
            birth = write + 0 * write
            birth[:last] += write[last] if last < tiers else 0
            least = (alive + birth).min(axis=0)
            total += sum(
                count * int(least[np.array(which), end - first].sum(dtype=object))
                for which, end, count in born
            )
        if case.rules["migration"] != "none":
            _move(alive[:, :, leaving:], write, last)
        alive += read
    start = path + (units * running[:, layer + 1])[:, :, None]
    return total + _prompt(case, start, of_token, forced)


def _classes(case: Case) -> tuple[Ints, list[Ints]]:
    """Return the different last steps, ascending, and the number of that of each token by layer."""
    lives = {id(life): life for life in case.lives}
    ends = np.unique(np.concatenate([life.end for life in lives.values()]))
    number = {key: np.searchsorted(ends, life.end) for key, life in lives.items()}
    return ends, [number[id(life)] for life in case.lives]


def _births(case: Case, of_token: list[Ints]) -> list[list[tuple[list[int], int, int]]]:
    """Return the births of each step: for layers that are alike, (layers, number of the end, tokens)."""
    alike: dict[int, list[int]] = {}
    for layer, life in enumerate(case.lives):
        alike.setdefault(id(life), []).append(layer)
    found: list[list[tuple[list[int], int, int]]] = [[] for _ in range(case.steps)]
    for layers in alike.values():
        life, ends = case.lives[layers[0]], of_token[layers[0]]
        token = np.arange(life.past[0], life.past[-1])
        kinds, counts = np.unique(np.stack([life.born[token], ends[token]]), axis=1, return_counts=True)
        for step, end, count in zip(*kinds.tolist(), counts.tolist(), strict=True):
            found[step].append((layers, end, count))
    return found


def _move(path: Ints, write: Ints, last: int) -> None:
    """Let every item move where that is cheaper: being read, it may go to any tier; in place."""
    target = path + write
    if last < len(path):
        target[last] = path[last]  # free: the copy is already there
    for old in range(len(path)):
        others = np.delete(target, old, axis=0).min(axis=0)
        np.minimum(path[old], others, out=path[old])


def _prompt(case: Case, start: Ints, of_token: list[Ints], forced: Ints | None) -> int:
    """Return the sum over the prompt's items of their prices from the start on, (tiers, layers, ends)."""
    total = 0
    for layer, life in enumerate(case.lives):
        held = np.flatnonzero(life.held[: case.prefill])
        number = np.ones(held.size, np.int64) * life.blocks_in(held)
        end = of_token[layer][held]
        tier = start[:, layer].argmin(axis=0)[end] if forced is None else forced[layer, held]
        counts = np.zeros(start[:, layer].shape, np.int64)
        np.add.at(counts, (tier, end), number)
        which = np.nonzero(counts)
        total += int((start[:, layer][which].astype(object) * counts[which]).sum())
    return total
