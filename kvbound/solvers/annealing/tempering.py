"""The temperatures of annealing: cycles of cooling, batches of moves, and replica exchange between chains."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kvbound.arithmetic import log, power
from kvbound.kernels import Kernel
from kvbound.solvers.annealing.chains import Chains
from kvbound.solvers.annealing.layout import DRAWS, EXACT, Ints, SearchData, Tiers
from kvbound.solvers.annealing.moves import Floats
from kvbound.solvers.annealing.moves import try_moves as try_with_numpy
from kvbound.solvers.annealing.ramp import charge_waits, exact_totals, width, without_waits

INITIAL_ACCEPTANCE = 0.002
"""Probability at first of accepting a move that adds what one more miss typically does."""
FINAL_TEMPERATURE = 1 / 200
"""The last temperature of a cycle over its first."""
LADDER = 0.6
"""Temperature of the coldest chain over that of the hottest, at any time."""
BATCHES = 40
"""Temperatures in a cycle; after each, chains may exchange theirs."""
FROZEN_SHARE = 0.05
"""Share of the batches of a cycle, the last ones, that accept nothing worse."""
CHUNK = 256
"""Moves of each chain between two calls of `proceed`, with NumPy."""
COMPILED_CHUNK = 64 * CHUNK
"""The same for all chains together, when compiled."""
REHEAT, REHEATS = 0.5, 4
"""A cycle begins at REHEAT times the first temperature of the one before, every REHEATS-th at the hottest."""


@dataclass(eq=False)
class Annealer:
    """Chains, and the best schedule that any of them has passed through.

    Attributes
    ----------
    best, ticks
        Tiers of the best schedule, shape (layers * blocks, steps + 1), and its time.
    moves
        Moves tried so far, by all chains together.
    """

    data: SearchData
    chains: Chains
    rng: np.random.Generator
    kernel: Kernel
    threads: int = 1
    moves: int = 0
    best: Tiers = field(init=False)
    ticks: int = field(init=False)

    def __post_init__(self) -> None:
        self.best, self.ticks = self.chains.tier[0].copy(), int(self.chains.totals[0])
        self._hottest = typical_change(self.data, self.chains) / -float(log(np.array(INITIAL_ACCEPTANCE)))
        self._ramped = self.data
        self._keep_best()

    def cycle(self, number: int, moves: int, proceed: Callable[[], bool]) -> bool:
        """Cool once from hot to cold.

        Parameters
        ----------
        number
            Number of the cycle, from 0: most later ones begin at a lower temperature.
        moves
            Moves of each chain.
        proceed
            Called every few moves; when it returns False the cycle ends.

        Returns
        -------
        bool
            Whether the cycle was completed.
        """
        self._restart_slow_chains()
        count = self.chains.count
        ladder = np.array([power(LADDER, n / max(count - 1, 1)) for n in range(count)])
        first = self._hottest * REHEAT ** (number % REHEATS)
        for batch in range(BATCHES):
            share = batch / BATCHES
            if self.data.has_waits:
                self._ramped = charge_waits(self.data, self.chains, width(share))
            frozen = share >= 1 - FROZEN_SHARE
            temperature = np.zeros(count)
            if not frozen:
                temperature = first * power(FINAL_TEMPERATURE, share / (1 - FROZEN_SHARE)) * ladder
            done = moves * batch // BATCHES
            if not self._batch(moves * (batch + 1) // BATCHES - done, temperature, proceed):
                return False
            if not frozen:
                ladder = self._exchange(ladder, temperature)
        return True

    def seconds_per_move(self, moves: int) -> float:
        """Estimate the seconds of one move of every chain, by some that are all undone."""
        never = np.full((moves, self.chains.count), np.iinfo(np.int64).min)
        draws = np.random.default_rng(0).random((*never.shape, DRAWS))
        begin = time.perf_counter()
        try_moves(self.data, self.chains, draws, never, self.kernel, self.threads)
        return (time.perf_counter() - begin) / moves

    def _batch(self, moves: int, temperature: Floats, proceed: Callable[[], bool]) -> bool:
        """Try moves at fixed temperatures, one per chain."""
        chains = len(temperature)
        chunk = CHUNK if self.kernel == "numpy" else -(-COMPILED_CHUNK // chains)
        going = True
        for first in range(0, moves, chunk):
            draws = self.rng.random((min(chunk, moves - first), chains, DRAWS + 1))
            limits = np.floor(temperature * np.maximum(-log(1 - draws[:, :, -1]), 0)).astype(np.int64)
            try_moves(self._ramped, self.chains, draws, limits, self.kernel, self.threads)
            self.moves += limits.size
            going = proceed()
            if not going:
                break
        self._keep_best()
        return going and proceed()  # the best may be good enough by now

    def _keep_best(self) -> None:
        """Copy the fastest schedule if it is better than any before."""
        exact = len(self._ramped.ramp) <= EXACT
        totals = self.chains.totals if exact else exact_totals(self.data, self.chains)
        fastest = int(totals.argmin())
        if totals[fastest] < self.ticks:
            self.best[:], self.ticks = self.chains.tier[fastest], int(totals[fastest])

    def _restart_slow_chains(self) -> None:
        """Continue the slower half of the chains from the schedule of the fastest."""
        order = np.argsort(self.chains.totals, kind="stable")
        for chain in order[(len(order) + 1) // 2 :]:
            self.chains.copy(int(order[0]), int(chain))

    def _exchange(self, ladder: Floats, temperature: Floats) -> Floats:
        """Replica exchange: chains at neighbouring temperatures swap them by the Metropolis rule."""
        ladder, totals = ladder.copy(), self.chains.totals
        order = np.argsort(-temperature, kind="stable")
        threshold = log(1 - self.rng.random(len(order)))
        for n in range(len(order) - 1):
            hotter, colder = order[n], order[n + 1]
            gain = (1 / temperature[colder] - 1 / temperature[hotter]) * (totals[colder] - totals[hotter])
            if gain >= threshold[n]:
                ladder[[hotter, colder]] = ladder[[colder, hotter]]
                order[[n, n + 1]] = order[[n + 1, n]]
        return ladder


def typical_change(data: SearchData, chains: Chains) -> float:
    """Return the median change, in ticks, of a slot's time by one miss more or less, where there is any.

    Waits are left out: a slot has them or not, whatever the number of its misses.
    """
    change: Ints = np.abs(without_waits(data, chains) if data.has_waits else chains.marginal[0])
    return float(np.median(change[change > 0])) if change.any() else 1.0


def try_moves(
    data: SearchData, chains: Chains, draws: Floats, limits: Ints, kernel: Kernel, threads: int = 1
) -> Ints:
    """Try moves on every chain.

    Parameters
    ----------
    draws
        Uniform numbers, shape (moves, chains, DRAWS).
    limits
        Ticks that a move may add at the most to be accepted, shape (moves, chains).

    Returns
    -------
    Ints
        Moves accepted in each chain, shape (chains,).
    """
    if kernel == "numpy":
        return try_with_numpy(data, chains, draws, limits)
    from kvbound.solvers.annealing.moves_numba import try_moves as try_compiled

    def one(n: int) -> int:
        arrays = (array[n] for array in chains.arrays)
        return try_compiled(data, *arrays, draws[:, n], limits[:, n])

    if threads == 1:
        return np.array([one(n) for n in range(chains.count)], np.int64)
    with ThreadPoolExecutor(threads) as pool:
        return np.array(list(pool.map(one, range(chains.count))), np.int64)
