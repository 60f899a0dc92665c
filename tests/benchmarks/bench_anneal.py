"""Annealing: moves per second of processor time, beside a plain annealer in pure Python.

    python -m tests.benchmarks.bench_anneal [NAME ...] [--seconds 5] [--solve 60]

The plain annealers make one move at a time (two tiers, inclusive, on-read, single tokens), keep the slots'
counts and occupancy up to date by differences, and take slot times from the same facets. One makes blind
moves: it flips any stay, and sends any other away where there is no room. The other makes the moves that
ours makes: it looks for a stay worth moving and for the blocks that cost least to send away. `--solve`
also prints how near the best known time a run of so many seconds comes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time

import numpy as np

import kvbound as kv
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.library import best_known
from kvbound.solvers.annealing.chains import Chains, schedule_of, tiers_of
from kvbound.solvers.annealing.layout import (
    ABSENT,
    BLOCK,
    CANDIDATES,
    DRAWS,
    DUE,
    HIGH,
    MAX_RUN,
    MAX_VICTIMS,
    PROBES,
    RUN_SHARE,
    STRIDE,
    TARGETED_SHARE,
    SearchData,
    search_data,
)
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.annealing.tempering import try_moves

NAMES = ("swap-2x48-c30-b64", "native-r15-c25-b64-n64", "native-r15-c25-b64")
HEAT = 0.15
"""Temperature over the time of a mean slot."""


class Plain:
    """One schedule, lists of numbers, one move at a time."""

    def __init__(self, instance: Instance, data: SearchData, states: Chains) -> None:
        self.data = data
        self.tier, self.counts = states.tier[0].tolist(), states.counts[0].tolist()
        self.held, self.ticks = states.occupancy[0, 0].tolist(), states.ticks[0].tolist()
        self.rows, self.base = data.facets[0].tolist(), data.weight_ticks[:, 0].tolist()
        self.stays = [tuple(each) for each in data.intervals[:, : HIGH + 1].tolist()]
        self.number, self.room = data.interval_of.tolist(), int(data.capacity[0])
        self.reads, self.born = data.reads[0].tolist(), instance.timeline.born.tolist()

    def slot_ticks(self, slot: int) -> float:
        """Time of one slot by the facets."""
        base, count = self.base[slot % self.data.layers], self.counts[slot]
        return max(
            b + sum(map(float.__mul__, row, map(float, count)))
            for b, row in zip(base, self.rows, strict=True)
        )

    def flip(self, stay: int, touched: set[int]) -> None:
        """Move a stay to the other tier and bring all counts up to date."""
        block, low, high = self.stays[stay]
        data, own, reads = self.data, self.tier[block], self.reads[block]
        layers, layer, to = data.layers, block // data.blocks, 1 - own[high]
        token = block % data.blocks
        around = range(max(low - 1, 0), min(high, data.steps - 1) + 1)
        for sign in (-1, 1):
            for step in around:
                before, after, newborn = own[step], own[step + 1], step == self.born[token]
                if not (reads[step] or newborn or before != after):
                    continue
                count = self.counts[step * layers + layer]
                if before != ABSENT:
                    count[before] += sign * reads[step]
                count[4] += sign * ((newborn or before == 1) and after == 0)
                count[5] += sign * newborn
                touched.add(step * layers + layer)
            own[low : high + 1] = [to] * (high - low + 1)
        for t in self.span(stay):
            self.held[t] += 1 - 2 * to

    def span(self, stay: int) -> range:
        """Moments a stay covers."""
        block, low, high = self.stays[stay]
        layers, layer = self.data.layers, block // self.data.blocks
        begin = (low - 1) * layers + layer + 1 if low else 0
        return range(begin, min(high * layers + layer + 1, len(self.held)))

    def full(self, stay: int) -> int | None:
        """First moment of a stay at which tier 0 holds more than it can."""
        return next((t for t in self.span(stay) if self.held[t] > self.room), None)

    def there(self, block: int, t: int) -> int:
        """Stay of a block at a moment if it is in tier 0, else -1."""
        layer = block // self.data.blocks
        state = (t - 1 - layer) // self.data.layers + 1 if t > layer else 0
        return self.number[block][state] if self.tier[block][state] == 0 else -1

    def move(self, heat: float) -> bool:
        """Try one move; return whether it was taken."""
        stay, touched = random.randrange(len(self.stays)), set[int]()
        done = [stay]
        self.flip(stay, touched)
        t = self.full(stay)
        if t is not None:
            other = self.there(random.randrange(len(self.tier)), t)
            if other not in (-1, stay):
                done.append(other)
                self.flip(other, touched)
            if self.full(stay) is not None:
                return self.undo(done)
        return self.judge(done, touched, heat)

    def judge(self, done: list[int], touched: set[int], heat: float) -> bool:
        """Keep flips or undo them."""
        new = {slot: self.slot_ticks(slot) for slot in touched}
        delta = sum(ticks - self.ticks[slot] for slot, ticks in new.items())
        if delta > 0 and random.random() >= math.exp(-delta / heat):
            return self.undo(done)
        for slot, ticks in new.items():
            self.ticks[slot] = ticks
        return True

    def undo(self, done: list[int]) -> bool:
        """Flip back."""
        for stay in reversed(done):
            self.flip(stay, set())
        return False


class Picky(Plain):
    """The same with the moves of `moves`."""

    def __init__(self, instance: Instance, data: SearchData, states: Chains) -> None:
        super().__init__(instance, data, states)
        self.due, self.margin = data.intervals[:, DUE].tolist(), states.marginal[0].tolist()
        self.last = [own[-1] for own in self.number]

    def there_now(self, stay: int) -> int:
        """Tier of a stay."""
        block, _, high = self.stays[stay]
        return self.tier[block][high]

    def worth(self, stay: int) -> bool:
        """Whether a hit at the end of a stay would gain time."""
        due = self.due[stay]
        return due >= 0 and self.margin[due][1] > 0 and self.there_now(stay) != 0

    def victim(self, t: int, first: int, picky: bool) -> int:
        """Stay that costs least to send away at a moment, -1 if nobody was found."""
        found, least, block = -1, math.inf, random.randrange(len(self.tier))
        for _ in range(PROBES):
            stay = self.there(block, t) if block != first else -1
            if stay >= 0:
                due = self.due[stay]
                cost = max(self.margin[due][0], 0) if picky and due >= 0 else 0
                if cost < least:
                    found, least = stay, cost
                if cost == 0:
                    break
            block = (block + STRIDE) % len(self.tier)
        return found

    def move(self, heat: float) -> bool:
        """Try one move; return whether it was taken."""
        count, picky = len(self.stays), random.random() < TARGETED_SHARE
        stay, touched, done = random.randrange(count), set[int](), list[int]()
        if picky:
            near = (n % count for n in range(stay, stay + CANDIDATES))
            stay = next((n for n in near if self.worth(n)), (stay + CANDIDATES) % count)
        block, end = self.stays[stay][0], stay
        if random.random() < RUN_SHARE:
            end = min(stay + 1 + int(random.random() * (MAX_RUN - 1)), self.last[block])
        new = 1 - self.there_now(end)
        for n in range(stay, end + 1):
            if self.there_now(n) != new:
                done.append(n)
                self.flip(n, touched)
        for victims in range(MAX_VICTIMS + 1):
            t = next((t for n in range(stay, end + 1) if (t := self.full(n)) is not None), None)
            if new or t is None:
                return self.judge(done, touched, heat)
            other = self.victim(t, block, picky) if victims < MAX_VICTIMS else -1
            if other < 0:
                break
            done.append(other)
            self.flip(other, touched)
        return self.undo(done)

    def judge(self, done: list[int], touched: set[int], heat: float) -> bool:
        """Keep flips or undo them; keep margins up to date."""
        if not super().judge(done, touched, heat):
            return False
        for slot in touched:
            self.margin[slot] = [self.change(slot, 0, 1), -self.change(slot, 1, 0)]
        return True

    def change(self, slot: int, source: int, target: int) -> float:
        """Ticks that a read served by another tier would add to a slot."""
        count = self.counts[slot]
        if count[source] == 0:
            return 0.0
        count[source] -= 1
        count[target] += 1
        added = self.slot_ticks(slot) - self.ticks[slot]
        count[source] += 1
        count[target] -= 1
        return added


def states_of(instance: Instance, data: SearchData, chains: int) -> Chains:
    """Chains from belady's schedule, with what leaves before its next read leaving at once."""
    start = kv.simulate(instance, "belady").schedule
    assert start is not None
    tier = tiers_of(instance, start)
    last = tier[data.intervals[:, BLOCK], data.intervals[:, HIGH]]
    tier = np.where(data.interval_of < 0, tier, last[data.interval_of])
    return Chains.of(instance, data, [schedule_of(instance, tier)] * chains)


def plain_rate(instance: Instance, seconds: float, kind: type[Plain]) -> float:
    """Moves per second of a plain annealer."""
    data = search_data(instance)
    plain = kind(instance, data, states_of(instance, data, 1))
    random.seed(0)
    heat, moves, begin = HEAT * float(np.mean(plain.ticks)), 0, time.process_time()
    while (taken := time.process_time() - begin) < seconds:
        for _ in range(100):
            plain.move(heat)
        moves += 100
    spans = [plain.span(n) for n, (block, _, high) in enumerate(plain.stays) if plain.tier[block][high] == 0]
    assert np.array_equal(np.bincount(np.concatenate(spans), minlength=len(plain.held)), plain.held)
    return moves / taken


def rate(instance: Instance, seconds: float, kernel: Kernel, chains: int) -> float:
    """Moves per second of all chains together."""
    data = search_data(instance)
    states = states_of(instance, data, chains)
    rng, each = np.random.default_rng(0), 64 if kernel == "numpy" else max(2**15 // chains, 1)
    heat, moves, begin = HEAT * states.ticks[0].mean(), 0, 0.0
    while not moves or (taken := time.process_time() - begin) < seconds:
        draws = rng.random((each, chains, DRAWS + 1))
        limits = np.floor(-heat * np.log(1 - draws[:, :, -1])).astype(np.int64)
        try_moves(data, states, draws, limits, kernel)
        if begin == 0.0:  # the first compiles
            begin = time.process_time()
            continue
        moves += limits.size
    return moves / taken


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--solve", type=float, default=0.0)
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, moves per second of processor time")
    for name in options.names:
        instance = kv.read_instance(name)
        blind, same = (plain_rate(instance, options.seconds, kind) for kind in (Plain, Picky))
        print(f"{name}: plain Python {blind:,.0f} blind moves, {same:,.0f} of ours")
        tries: list[tuple[Kernel, int]] = [("numpy", 1), ("numpy", 32), ("numpy", 512)]
        if pick() == "numba":
            tries += [("numba", 1), ("numba", 8)]
        for kernel, chains in tries:
            if chains * search_data(instance).interval_of.size * 3 > 2**31:
                continue
            found = rate(instance, options.seconds, kernel, chains)
            times = f"{found / blind:.1f} and {found / same:.1f} times as many"
            print(f"  {kernel}, {chains} chains: {found:,.0f}, {times}")
        if options.solve:
            known = best_known()[name].time_s
            result = solve_annealing(instance, time_limit=options.solve, gap=0.0)
            print(f"  {options.solve:g} s: {result.time_s} s, best known {known} s")


if __name__ == "__main__":
    main()
