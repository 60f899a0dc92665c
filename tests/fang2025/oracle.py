"""The study's rules, literally and with Python sets: slow, and independent of the package's code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Item = tuple[int, int]  # (layer, token)


class Endless(Exception):
    """The reactive rule has nothing left to evict and would not terminate."""


@dataclass
class Slot:
    reads: int
    hits: int
    beta: bool
    promoted: int
    external: int
    alpha: float
    time_s: float
    pool: frozenset[Item]  # after the slot


@dataclass
class Oracle:
    """One run; `reads[step][layer]` lists ids in list order."""

    prefill: int
    reads: list[list[list[int]]]
    item: int  # K
    weights: list[float]  # W of each layer
    room: int  # M
    capacity: float
    hbm: float
    read: float
    write: float
    internal: float
    window: int = 5
    topk: float = 0.5
    pool: set[Item] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.layers = len(self.reads[0])
        self.external = min(self.read, self.internal)
        self.cap = self.hbm / (self.hbm + self.external)

    # the pool

    def add(self, layer: int, token: int) -> bool:
        if (layer, token) in self.pool:
            return True
        if self.room - (len(self.pool) + 1) > 0:
            self.pool.add((layer, token))
            return True
        return False

    def of(self, layer: int) -> set[int]:
        return {t for k, t in self.pool if k == layer}

    def next_reads(self, step: int, layer: int) -> list[int]:
        return self.reads[step + 1][layer] if step + 1 < len(self.reads) else []

    # fills

    def fill_static(self) -> None:
        for token in range(self.prefill):
            for layer in range(self.layers):
                if not self.add(layer, token):
                    return

    def fill_reactive(self) -> None:
        for row in self.reads:
            for layer in range(self.layers):
                for token in row[layer]:
                    if token <= self.prefill and not self.add(layer, token):
                        return

    def fill_page(self) -> None:
        page = 0
        while 16 * (page + 1) <= self.prefill and len(self.pool) + 16 * self.layers <= self.room:
            for layer in range(self.layers):
                for token in range(16 * page, 16 * page + 15):
                    assert self.add(layer, token)
            page += 1

    # placements

    def place_static(self, step: int, layer: int) -> bool:
        return self.add(layer, self.prefill + step)

    def place_page(self, step: int, layer: int) -> bool:
        n = self.prefill + step
        if n % 16 == 0:
            return self.room - len(self.pool) >= 16 * self.layers and self.add(layer, n)
        return (layer, n - n % 16) in self.pool and self.add(layer, n)

    def place_lookahead(self, step: int, layer: int) -> bool:
        n, coming = self.prefill + step, set(self.next_reads(step, layer))
        if n not in coming:
            return False
        while not self.add(layer, n):
            victims = [t for t in self.of(layer) if t < n and t not in coming]
            if not victims:
                return False
            self.pool.remove((layer, min(victims)))
        return True

    # migrations: items written to HBM, items read from external memory

    def move_static(self, step: int, layer: int) -> tuple[int, int]:
        return 0, 0

    def move_reactive(self, step: int, layer: int) -> tuple[int, int]:
        n = self.prefill + step
        misses = [t for t in self.reads[step][layer] if (layer, t) not in self.pool]
        for miss in misses:
            while not self.add(layer, miss):
                older = [t for t in self.of(layer) if t < n]
                if not older:
                    raise Endless
                self.pool -= {(layer, t) for t in older}
        return len(misses), 0

    def move_page(self, step: int, layer: int) -> tuple[int, int]:
        promoted = external = 0
        whole, now = 16 * self.layers, set(self.reads[step][layer])
        for token in self.next_reads(step, layer):
            if (layer, token) in self.pool:
                continue
            page = token // 16
            items = [(k, t) for k in range(self.layers) for t in range(16 * page, 16 * page + 16)]
            while True:
                if self.room - len(self.pool) >= whole:
                    if all(self.add(*item) for item in items):
                        promoted += whole
                        external += whole * (token in now)
                    else:
                        self.pool -= set(items)
                    break
                older = [q for q in range(page) if (0, 16 * q) in self.pool]
                if not older:
                    break
                self.pool = {(k, t) for k, t in self.pool if t // 16 != older[0]}
        return promoted, external

    def move_lookahead(self, step: int, layer: int) -> tuple[int, int]:
        if step + 1 == len(self.reads):
            return 0, 0
        now, coming = self.reads[step][layer], self.next_reads(step, layer)
        hits = len(self.of(layer) & set(coming))
        demand = self.weights[layer] + len(coming) * self.item
        delta = int((self.cap * demand - self.weights[layer]) / self.item) - hits
        if delta <= 0:
            return 0, 0
        candidates = [t for t in now if t in set(coming) and (layer, t) not in self.pool]
        victims = [t for t in now if t not in set(coming) and (layer, t) in self.pool]
        taken = candidates[: min(delta, hits)]
        for token in taken:
            while not self.add(layer, token) and victims:
                self.pool.remove((layer, victims.pop(0)))
        return len(taken), 0

    def move_sa(self, step: int, layer: int) -> tuple[int, int]:
        n = self.prefill + step
        ahead = [set(row[layer]) for row in self.reads[step + 1 : step + 1 + self.window]]
        soon = {t for row in ahead for t in row if t <= n}
        candidates = [t for t in self.reads[step][layer] if t in soon and (layer, t) not in self.pool]
        score = {t: sum(1 / offset for offset, row in enumerate(ahead, 1) if t in row) for t in candidates}
        candidates.sort(key=lambda t: (-score[t], t))
        goal, done = math.ceil(self.topk * len(candidates)), 0
        for token in candidates:
            if done >= goal:
                break
            while not self.add(layer, token):
                victims = self.of(layer) - soon
                if not victims:
                    break
                self.pool.remove((layer, min(victims)))
            done += (layer, token) in self.pool
        return done, 0

    # the run

    def run(self, policy: str) -> list[Slot]:
        rules = {
            "static": (self.fill_static, self.place_static, self.move_static),
            "best": (self.fill_static, self.place_static, self.move_static),
            "reactive": (self.fill_reactive, self.place_static, self.move_reactive),
            "page": (self.fill_page, self.place_page, self.move_page),
            "lookahead-one": (self.fill_reactive, self.place_lookahead, self.move_lookahead),
            "sa-guided": (self.fill_reactive, self.place_lookahead, self.move_sa),
        }
        fill, place, move = rules[policy]
        fill()
        self.initial = frozenset(self.pool)
        slots = []
        for step, row in enumerate(self.reads):
            for layer, reads in enumerate(row):
                demand = self.weights[layer] + len(reads) * self.item
                hits = sum((layer, t) in self.pool for t in reads)
                served = self.capacity if policy == "best" else self.weights[layer] + hits * self.item
                alpha = min(self.cap, served / demand)
                beta = place(step, layer)
                promoted, external = move(step, layer)
                time = self.time(alpha, demand, beta, promoted * self.item, external * self.item)
                slots.append(
                    Slot(len(reads), hits, beta, promoted, external, alpha, time, frozenset(self.pool))
                )
        return slots

    def time(self, alpha: float, demand: float, beta: bool, promoted: float, external: float) -> float:
        near = (alpha * demand + beta * self.item + promoted) / self.hbm
        far = ((1 - alpha) * demand + external) / min(self.read, self.internal)
        if self.read <= self.internal:
            far = max(far, self.item / min(self.write, self.internal - self.read))
        else:
            far = far + self.item / self.internal
        return max(near, far)
