"""How annealing cools: temperatures, batches of moves, exchange between chains, cycles."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import log, power
from kvbound.kernels import Kernel
from kvbound.solvers.annealing.chains import Chains
from kvbound.solvers.annealing.layout import DRAWS, Board, Ints, Tiers
from kvbound.solvers.annealing.moves import Floats, _Moves

HOT = 0.002
"""Chance at first that a move is taken that adds what one more miss typically costs."""
COLD = 1 / 200
"""The last temperature over the first."""
SPREAD = 0.6
"""The coldest chain's temperature over the hottest's, at any time."""
BATCHES = 40
"""Temperatures in a cycle; after each, chains may exchange theirs."""
FROZEN = 0.05
"""Share of a cycle's batches, the last ones, that take nothing worse at all."""
CHUNK, FASTER = 256, 64
"""Moves of each chain between two looks at the clock, and how many more of a chain when compiled."""
REHEAT, REHEATS = 0.5, 4
"""Each cycle begins at so many times the temperature the one before began at; the fifth is hot again."""


@dataclass(eq=False)
class Annealer:
    """Chains, and the best schedule any of them has seen.

    Attributes
    ----------
    best, ticks
        Tiers of the best schedule, shape (layers * blocks, steps + 1), and its time.
    moves
        Moves tried so far, by all chains together.
    """

    board: Board
    chains: Chains
    rng: np.random.Generator
    kernel: Kernel
    threads: int = 1
    moves: int = 0
    best: Tiers = field(init=False)
    ticks: int = field(init=False)

    def __post_init__(self) -> None:
        self.best, self.ticks = self.chains.tier[0].copy(), int(self.chains.totals[0])
        self._hot = typical(self.chains) / -float(log(np.array(HOT)))
        self._keep()

    def cycle(self, number: int, moves: int, look: Callable[[], bool]) -> bool:
        """Cool once from hot to cold.

        Parameters
        ----------
        number
            Of the cycle, from 0: most later ones begin less hot.
        moves
            Of each chain.
        look
            Called every few moves; its False ends the cycle.

        Returns
        -------
        bool
            Whether the cycle came to its end.
        """
        self._gather()
        count = self.chains.count
        ladder = np.array([power(SPREAD, n / max(count - 1, 1)) for n in range(count)])
        hot = self._hot * REHEAT ** (number % REHEATS)
        for batch in range(BATCHES):
            share = batch / BATCHES
            frozen = share >= 1 - FROZEN
            heat = np.zeros(count) if frozen else hot * power(COLD, share / (1 - FROZEN)) * ladder
            done = moves * batch // BATCHES
            if not self._batch(moves * (batch + 1) // BATCHES - done, heat, look):
                return False
            if not frozen:
                ladder = self._exchange(ladder, heat)
        return True

    def pace(self, moves: int) -> float:
        """Estimate the seconds that one move of every chain takes, by a few that are all undone."""
        never = np.full((moves, self.chains.count), np.iinfo(np.int64).min)
        draws = np.random.default_rng(0).random((*never.shape, DRAWS))
        begin = time.perf_counter()
        anneal(self.board, self.chains, draws, never, self.kernel, self.threads)
        return (time.perf_counter() - begin) / moves

    def _batch(self, moves: int, heat: NDArray[np.float64], look: Callable[[], bool]) -> bool:
        """Try moves at fixed temperatures, one per chain."""
        chains = len(heat)
        chunk = CHUNK if self.kernel == "numpy" else -(-CHUNK * FASTER // chains)
        going = True
        for first in range(0, moves, chunk):
            draws = self.rng.random((min(chunk, moves - first), chains, DRAWS + 1))
            limits = np.floor(heat * np.maximum(-log(1 - draws[:, :, -1]), 0)).astype(np.int64)
            anneal(self.board, self.chains, draws, limits, self.kernel, self.threads)
            self.moves += limits.size
            going = look()
            if not going:
                break
        self._keep()
        return going and look()  # what was kept may be enough

    def _keep(self) -> None:
        """Remember the best schedule."""
        totals = self.chains.totals
        first = int(totals.argmin())
        if totals[first] < self.ticks:
            self.best[:], self.ticks = self.chains.tier[first], int(totals[first])

    def _gather(self) -> None:
        """Let the worse half of the chains go on from where the best one is."""
        order = np.argsort(self.chains.totals, kind="stable")
        for chain in order[(len(order) + 1) // 2 :]:
            self.chains.copy(int(order[0]), int(chain))

    def _exchange(self, ladder: NDArray[np.float64], heat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Replica exchange: neighbours in temperature swap theirs, by Metropolis' rule."""
        ladder, totals = ladder.copy(), self.chains.totals
        order = np.argsort(-heat, kind="stable")
        luck = log(1 - self.rng.random(len(order)))
        for n in range(len(order) - 1):
            hotter, colder = order[n], order[n + 1]
            gain = (1 / heat[colder] - 1 / heat[hotter]) * (totals[colder] - totals[hotter])
            if gain >= luck[n]:
                ladder[[hotter, colder]] = ladder[[colder, hotter]]
                order[[n, n + 1]] = order[[n + 1, n]]
        return ladder


def typical(chains: Chains) -> float:
    """Ticks that one more miss, or one less, typically changes a slot by, where it matters at all."""
    change: Ints = np.abs(chains.margin[0])
    return float(np.median(change[change > 0])) if change.any() else 1.0


def anneal(
    board: Board, chains: Chains, draws: Floats, limits: Ints, kernel: Kernel, threads: int = 1
) -> Ints:
    """Try moves.

    Parameters
    ----------
    draws
        Uniform numbers, shape (moves, chains, DRAWS).
    limits
        A move is taken if it adds at most so many ticks, shape (moves, chains).

    Returns
    -------
    Ints
        Moves taken by each chain, shape (chains,).
    """
    if kernel == "numba":
        from kvbound.solvers.annealing.moves_numba import anneal as compiled

        def one(n: int) -> int:
            arrays = (chains.tier, chains.counts, chains.held, chains.ticks, chains.margin)
            return compiled(board, *(array[n] for array in arrays), draws[:, n], limits[:, n])

        if threads == 1:
            return np.array([one(n) for n in range(len(chains.ticks))], np.int64)
        with ThreadPoolExecutor(threads) as pool:
            return np.array(list(pool.map(one, range(len(chains.ticks)))), np.int64)
    counted = np.zeros(len(chains.ticks), np.int64)
    for u, limit in zip(draws, limits, strict=True):
        counted += _Moves(board, chains, u).run(limit)
    return counted
