"""The study's two policies over a decode run, and a better placement on the same assumptions.

Step i = 1, 2, ... reads the KV of P + i tokens, its own included, and writes one token's; weights, reads and
writes follow one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InfeasibleError, UsageError
from kvbound.tiered2026.setting import Place, Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPREAD: Final = 16
"""Steps over which `adaptive_spread` divides a move, the crossing included."""


@dataclass(frozen=True)
class Crossing:
    """A step at whose beginning the whole KV moves.

    Attributes
    ----------
    step
        Number of the step, from 1.
    source, target
        Names of the tiers.
    kv_bytes
        Bytes of the KV of the step.
    seconds
        Time of the move: these bytes at the bandwidth of the target.
    """

    step: int
    source: str
    target: str
    kv_bytes: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A decode run: a prompt, and one token per step.

    Attributes
    ----------
    setting
        Memory and model.
    prompt
        Tokens of the prompt.
    steps
        Number of steps.

    Raises
    ------
    UsageError
        There is no prompt or no step.
    InfeasibleError
        No single tier holds the KV of the last step.
    """

    setting: Setting
    prompt: int
    steps: int

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.steps < 1:
            raise UsageError("a run needs a prompt of at least 1 token and at least 1 step")
        self.setting.landing(self.prompt + self.steps)

    @cached_property
    def tokens(self) -> Ints:
        """Tokens whose KV each step reads, (steps,)."""
        return self.prompt + np.arange(1, self.steps + 1)

    @cached_property
    def tiers(self) -> Ints:
        """Index of the tier that holds the KV in each step, (steps,)."""
        most = [self.setting.most_tokens(place) for place in self.setting.tiers]
        # a tier that is smaller than a faster one never holds the KV
        return np.searchsorted(np.maximum.accumulate(most), self.tokens)

    @cached_property
    def plain_s(self) -> Floats:
        """Seconds of each step without moves, (steps,)."""
        setting, size = self.setting, float(self.setting.kv_bytes)
        read, write = (np.array(rates)[self.tiers] for rates in self._rates)
        return setting.weight_bytes / setting.home.read + self.tokens * size / read + size / write

    @property
    def _rates(self) -> tuple[list[float], list[float]]:
        tiers = self.setting.tiers
        return [place.read for place in tiers], [place.write for place in tiers]

    @cached_property
    def crossings(self) -> tuple[Crossing, ...]:
        """The steps in which the KV is no longer where it was."""
        return tuple(map(self._crossing, (np.flatnonzero(np.diff(self.tiers)) + 1).tolist()))

    def _crossing(self, index: int) -> Crossing:
        source, target = (self.setting.tiers[self.tiers[n]] for n in (index - 1, index))
        size = float(int(self.tokens[index]) * self.setting.kv_bytes)
        return Crossing(index + 1, source.name, target.name, size, size / target.write)


def spill_all(run: Run) -> Floats:
    """Return the seconds of each step where the step of a crossing pays for the whole move, (steps,)."""
    return _with_moves(run, 1)


def adaptive_spread(run: Run, spread: int = SPREAD) -> Floats:
    """Return the seconds of each step where the steps up to a crossing share its move equally, (steps,).

    Shares of steps before the first one are lost, as in the study: no step pays for them.

    Raises
    ------
    UsageError
        The move is spread over less than one step.
    """
    if spread < 1:
        raise UsageError(f"a move is spread over at least 1 step, not {spread}")
    return _with_moves(run, spread)


def _with_moves(run: Run, spread: int) -> Floats:
    times = run.plain_s.copy()
    for crossing in run.crossings:
        times[max(0, crossing.step - spread) : crossing.step] += crossing.seconds / spread
    return times


def fill_first(setting: Setting, tokens: Ints, *, weights_inside: bool) -> Floats:
    """Return the seconds of steps whose KV fills the weights' tier first, then the slower ones, (steps,).

    All tiers are read side by side, the weights from their own. A step's own token is still on the chip, so
    that the KV of one token less is read; its write, of a few microseconds, is left out.

    Parameters
    ----------
    tokens
        Tokens of each step, its own included, (steps,).
    weights_inside
        Whether the weights take up room in their tier; in the study they do not.

    Raises
    ------
    InfeasibleError
        The tiers together do not hold the KV.
    """
    left = (np.asarray(tokens) - 1) * float(setting.kv_bytes)
    times = np.zeros(len(left))
    for place in _from_home(setting):
        home = place == setting.home
        taken = setting.weight_bytes if home and weights_inside else 0
        room = np.inf if place.capacity is None else float(max(Fraction(place.capacity) - taken, Fraction(0)))
        held = np.minimum(left, room)
        left = left - held
        times = np.maximum(times, (held + (setting.weight_bytes if home else 0)) / place.read)
    if left.any():
        raise InfeasibleError("the tiers together do not hold the KV of the last step")
    return times


def _from_home(setting: Setting) -> list[Place]:
    return [place for place in setting.tiers if place.read <= setting.home.read]
