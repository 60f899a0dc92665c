"""Decoding in plain Python, a token and a byte at a time, where layers differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.checker.layered import Layered

State = tuple[tuple[tuple[int, int], ...], ...]
"""By layer, the blocks that are held and their tiers."""


@dataclass
class Placed:
    """A schedule's file, and its numbers."""

    arrays: dict[str, Any]
    time_s: float
    peak_bytes: tuple[int, ...]
    hit_bytes: list[int]
    moved_bytes: dict[str, int]


class Plain:
    """What `docs/model.md` says, without arrays."""

    def __init__(self, case: Layered) -> None:
        self.case, self.tiers = case, len(case.capacity)
        expanded = case.expanded
        self.rules, self.first = expanded["rules"], case.first
        self.born = [-1] * self.first + case.born
        self.inclusive = self.rules["copies"] == "inclusive"
        self.size = [[self._size(layer, k) for k in range(self.tiers)] for layer in range(case.layers)]
        self.chunks = [dict(enumerate(case.chunks(layer))) for layer in range(case.layers)]
        label = case.trace.get("sequence", [0] * len(case.born))
        self.members: dict[int, list[int]] = {}
        for token, one in enumerate(label):
            self.members.setdefault(one, []).append(self.first + token)
        self.ends = [
            [case.steps if n in chunks else -1 for n in range(self.first)]
            + [self._end(layer, token, label[token]) for token in range(len(label))]
            for layer, chunks in enumerate(self.chunks)
        ]
        size = self.rules["granularity"]
        parts = [
            tokens[at : at + size] for tokens in self.members.values() for at in range(0, len(tokens), size)
        ]
        self.blocks = [[n] for n in range(self.first)] + sorted(parts)
        placed = [sum(chunks.values()) * size * self.size[n][0] for n, chunks in enumerate(self.chunks)]
        self.resident = case.weights - sum(placed)
        counted = case.placement.get("experts_read", 0)
        self.resident_reads = [
            read - case.block(n) * (sum(case.others(n)) + counted * max(case.experts(n), default=0))
            for n, read in enumerate(case.weights_read)
        ]
        self.begin = [self.born[tokens[0]] for tokens in self.blocks]
        self.last = [[max(ends[t] for t in tokens) for tokens in self.blocks] for ends in self.ends]

    def _size(self, layer: int, tier: int) -> int:
        size = self.case.formats.get(f"t{tier}", {"bytes": self.case.sizes})["bytes"]
        return int(size[layer] if isinstance(size, list) else size)

    def _end(self, layer: int, token: int, label: int) -> int:
        own = self.case.trace.get("ends", [None] * len(self.case.born))[token]
        end = self.case.steps if own is None else own
        window, tokens = (self.case.windows or [None] * self.case.layers)[layer], self.members[label]
        position = tokens.index(self.first + token)
        if window is not None and position + window - 1 < len(tokens):
            end = min(end, self.born[tokens[position + window - 1]])
        return end

    def held(self, layer: int, block: int, step: int) -> bool:
        """Whether a block takes up room after a step; -1 is the start."""
        return self.begin[block] <= step < self.last[layer][block]

    def items(self, layer: int, token: int) -> int:
        """Items that an id counts as: the size of a chunk of weights, in tokens."""
        chunk = self.chunks[layer].get(token)
        return 1 if chunk is None else chunk * int(self.rules["granularity"])

    def starting(self, layer: int, block: int) -> list[int]:
        """The prompt's tokens that say where a block starts, if it is held then.

        They are those that exist. A block that is held before any of its tokens exists is where those that do
        not are said to be: it begins in the prompt, and the layer's window is 1.
        """
        if not self.held(layer, block, -1):
            return []
        prompt = [token for token in self.blocks[block] if self.born[token] < 0]
        return [token for token in prompt if self.ends[layer][token] >= 0] or prompt

    def bytes_held(self, state: State) -> list[int]:
        """Bytes in each tier, resident weights included."""
        held = [self.resident] + [0] * (self.tiers - 1)
        for layer, blocks in enumerate(state):
            for block, tier in blocks:
                count = self.rules["granularity"] * self.chunks[layer].get(block, 1)
                for k in {tier, self.tiers - 1} if self.inclusive else {tier}:
                    held[k] += count * self.size[layer][k]
        return held

    def fits(self, state: State) -> bool:
        limits = zip(self.bytes_held(state), self.case.capacity, strict=True)
        return all(limit is None or held <= limit for held, limit in limits)

    def starts(self) -> Iterator[State]:
        """Every start that fits."""
        blocks = range(len(self.blocks))
        items = [(layer, b) for b in blocks for layer in range(self.case.layers) if self.held(layer, b, -1)]
        for tiers in itertools.product(range(self.tiers), repeat=len(items)):
            placed = dict(zip(items, tiers, strict=True))
            state = self.state(placed)
            if self.fits(state) and (self.rules["initial"] == "free" or state == self.filled(items)):
                yield state

    def state(self, placed: dict[tuple[int, int], int]) -> State:
        return tuple(
            tuple(sorted((b, tier) for (layer, b), tier in placed.items() if layer == number))
            for number in range(self.case.layers)
        )

    def filled(self, items: list[tuple[int, int]]) -> State:
        """The start under prefill-first."""
        placed: dict[tuple[int, int], int] = {}
        for item in items:
            for k in range(self.tiers):
                new = self.bytes_held(self.state(placed | {item: k}))[k]
                limit = self.case.capacity[k]
                room = limit is None or new <= max(limit, self.resident if k == 0 else 0)
                if k == self.tiers - 1 or room or self.size[item[0]][k] == 0:
                    placed[item] = k
                    break
        return self.state(placed)

    def options(self, step: int, layer: int, state: State) -> list[tuple[int, list[int]]]:
        """The legal tiers of each of a layer's blocks, those that are born included."""
        before, read = dict(state[layer]), self.read(step, layer)
        options = []
        for block, tokens in enumerate(self.blocks):
            if self.begin[block] == step:
                options.append((block, list(range(self.tiers))))
            elif block in before:
                old, past = before[block], [t for t in tokens if self.born[t] < step]
                up = self.rules["migration"] == "prefetch" or bool(read & set(past))
                still = self.rules["migration"] == "none" or self.last[layer][block] == step
                legal = [k for k in range(self.tiers) if k == old or (not still and (k > old or up))]
                options.append((block, legal))
        return options

    def choices(self, step: int, layer: int, state: State) -> Iterator[dict[int, int]]:
        """Every legal choice of tiers of a layer's blocks."""
        options = self.options(step, layer, state)
        for tiers in itertools.product(*(legal for _, legal in options)):
            yield dict(zip([block for block, _ in options], tiers, strict=True))

    def read(self, step: int, layer: int) -> set[int]:
        """Ids that a slot reads: chunks of weights among them, and tokens that are not born yet."""
        tokens = {self.first + token for token in self.case.reads[step][layer]}
        others, routing = len(self.case.others(layer)), self.case.routing
        named = routing[step][layer] if routing and self.case.experts(layer) else []
        return tokens | set(range(others)) | {others + expert for expert in named}

    def after(self, step: int, layer: int, state: State, chosen: dict[int, int]) -> State:
        kept = tuple(sorted((b, k) for b, k in chosen.items() if self.held(layer, b, step)))
        return (*state[:layer], kept, *state[layer + 1 :])

    def slot(
        self, step: int, layer: int, state: State, chosen: dict[int, int]
    ) -> tuple[float, list[int], list[int]]:
        """The seconds of a slot, the bytes read from each tier, and the bytes moved up and down."""
        before, size, last = dict(state[layer]), self.size[layer], self.tiers - 1
        read = {t for t in self.read(step, layer) if self.born[t] < step}
        served, other, written, moved = ([0] * self.tiers for _ in range(4))
        for block, new in chosen.items():
            old = before.get(block)
            for token in self.blocks[block]:
                items = self.items(layer, token)
                if token in read:
                    assert old is not None
                    served[old] += items * size[old]
                stays = self.born[token] < step < self.ends[layer][token]
                if stays and old is not None and new != old and not (self.inclusive and new == last):
                    other[old] += items * size[old] * (token not in read)
                    written[new] += items * size[new]
                    moved[new > old] += items * size[new]
                if self.born[token] == step:
                    written[new] += size[new]
                    if self.inclusive and new != last:
                        written[last] += size[last]
        return self._seconds(served, other, written, layer), served, moved[:2]

    def _seconds(self, served: list[int], other: list[int], written: list[int], layer: int) -> float:
        """Serial time, or parallel time of exclusive copies."""
        rate, size = [4.0 if k == 0 else 1.0 / k for k in range(self.tiers)], self.size[layer]
        taken = [self.resident_reads[layer], *[0.0] * (self.tiers - 1)]
        for k, amount in enumerate(served):
            copy = amount // size[k] * size[-1] if amount else 0
            near = not self.inclusive or amount / rate[k] <= copy / rate[-1]  # else the copy is faster
            taken[k if near else -1] += amount if near else copy
            taken[k] += other[k]
        down = [a / r + self.case.latency * (a > 0) for a, r in zip(taken, rate, strict=True)]
        busy = down + [a / r for a, r in zip(written, rate, strict=True)]
        return sum(busy) if self.rules["timing"] == "serial" else max(busy)

    def walk(self, rng: np.random.Generator) -> Placed:
        """A random schedule, whether it fits or not."""
        items = [(layer, b) for b in range(len(self.blocks)) for layer in range(self.case.layers)
                 if self.held(layer, b, -1)]  # fmt: skip
        state = self.state({item: int(rng.integers(self.tiers)) for item in items})
        if self.rules["initial"] != "free":
            state = self.filled(items)
        way = [state]
        made = list[dict[int, int]]()
        for step, layer in np.ndindex(self.case.steps, self.case.layers):
            options = self.options(step, layer, state)
            made.append({block: legal[int(rng.integers(len(legal)))] for block, legal in options})
            state = self.after(step, layer, state, made[-1])
            way.append(state)
        return self.placed(way, made, rng)

    def optimum(self) -> Placed | None:
        """A schedule of least time, over all states; None if none fits."""
        best: dict[State, tuple[float, list[State], list[dict[int, int]]]] = {
            state: (0.0, [state], []) for state in self.starts()
        }
        for step, layer in np.ndindex(self.case.steps, self.case.layers):
            found: dict[State, tuple[float, list[State], list[dict[int, int]]]] = {}
            for state, (time, way, made) in best.items():
                for chosen in self.choices(step, layer, state):
                    new = self.after(step, layer, state, chosen)
                    total = time + self.slot(step, layer, state, chosen)[0]
                    if self.fits(new) and (new not in found or total < found[new][0]):
                        found[new] = total, [*way, new], [*made, chosen]
            best = found
        if not best:
            return None
        _, way, made = min(best.values(), key=lambda each: each[0])
        return self.placed(way, made, np.random.default_rng(0))

    def placed(self, way: list[State], made: list[dict[int, int]], rng: np.random.Generator) -> Placed:
        """The file of a schedule, which says anything of items that do not exist, and its numbers."""
        initial = rng.integers(0, 255, (self.case.layers, self.first + self.case.prefill))
        for layer, blocks in enumerate(way[0]):
            for block, tier in blocks:
                for token in self.starting(layer, block):
                    initial[layer, token] = tier
        events, time, hits, moved = [], 0.0, [0] * self.tiers, [0, 0]
        slots = itertools.product(range(self.case.steps), range(self.case.layers))
        for (step, layer), state, chosen in zip(slots, way, made, strict=False):
            seconds, served, shifted = self.slot(step, layer, state, chosen)
            time += seconds
            hits = [a + b for a, b in zip(hits, served, strict=True)]
            moved = [a + b for a, b in zip(moved, shifted, strict=True)]
            before = dict(state[layer])
            for block, tier in chosen.items():
                tokens = self.blocks[block]
                events += [(step, layer, token, tier) for token in tokens if self.born[token] == step]
                if before.get(block, tier) != tier:
                    events.append((step, layer, tokens[0], tier))
        held = [self.bytes_held(state) for state in way]
        peaks = tuple(max(each[k] for each in held) for k in range(self.tiers))
        arrays = self.case.schedule(initial, events)
        return Placed(arrays, time, peaks, hits, {"up": moved[0], "down": moved[1]})
