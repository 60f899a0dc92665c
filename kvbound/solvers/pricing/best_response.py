"""Block-coordinate best responses to augmented-Lagrangian prices.

The dual's prices alone make no schedule: where paths cost the same, as most do in the end, all items would
take the same one. So a small group of items at a time takes its best paths, at prices that depend on what
all others use (`prices`): higher where a slot has too many slow reads or a tier too many blocks, lower where
it has too few. That is the method of multipliers for the convex program over mixtures of paths, minimised
block by block; the more items share a slot, the less it matters that each takes a single path. In the end the
schedule is repaired to fit the capacities (`repair`, `responses`).

Equations: "Best responses to prices" in docs/methods.md.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes, count_spans
from kvbound.bitsets.two_tier import TwoTierSchedule, supports_two_tier_bits
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Reason, Termination
from kvbound.rules import Migration
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.pricing.prices import Prices
from kvbound.solvers.pricing.responses.bits import BitResponses
from kvbound.solvers.pricing.responses.interface import Responses
from kvbound.solvers.pricing.responses.tiers import TierResponses

Bools = NDArray[np.bool_]

SWEEPS = 9
"""Default number of sweeps over all items after the first."""
SWEEPS_OF_BLOCKS = 3
"""The same where blocks of several tokens take minutes: more have not led to faster schedules."""
MOST_BYTES = 2e9
"""Slots times blocks up to which each takes a byte; single tokens between two inclusive tiers take a bit."""
THREADED_FROM = 2e6
"""Items of a group times steps from which threads save more than it takes to start them."""
GROUP = 0.0025
"""Share of the items that respond at once; of more, all would move to where it was cheap."""
_UPDATES_PER_SWEEP = 10


class BestResponses(NamedTuple):
    """Outcome of best responses."""

    responses: Responses | None
    """The paths of all items; None if there was no time for all."""
    multipliers: Multipliers
    """The dual's multipliers, moved by the loads; often better ones."""
    termination: Termination

    def schedule(self, progress: Progress = silent) -> TwoTierSchedule | Schedule | None:
        """Return a schedule that obeys the rules; call it only once, as it changes the responses in place."""
        return None if self.responses is None else self.responses.repaired(progress)


def supports(instance: Instance) -> bool:
    """Whether prices can lead to schedules: only KV is placed, it may move, and its tiers fit into memory."""
    fits = supports_two_tier_bits(instance) or instance.slots * instance.blocks <= MOST_BYTES
    return fits and instance.rules.migration is not Migration.NONE and not instance.chunks.ids


def best_responses(
    instance: Instance,
    multipliers: Multipliers,
    *,
    seed: int = 0,
    kernel: str | None = None,
    threads: int = 1,
    sweeps: int | None = None,
    end: float = math.inf,
    serving: Bools | None = None,
    group: float = GROUP,
    progress: Progress = silent,
) -> BestResponses:
    """Return best responses of all items to prices, starting from the dual's multipliers; see `supports`.

    Parameters
    ----------
    sweeps
        Number of sweeps over all items after the first; None takes SWEEPS.
    end
        `time.perf_counter` at which to stop.
    serving
        Whether each tier serves reads of a slot, (K, steps, layers or 1), where that is settled; the weights
        of the multipliers then do not count.
    group
        Share of the items that respond at once.
    """
    generator, chosen = np.random.default_rng(seed), pick(kernel)
    plan = _Plan.of(instance, SWEEPS if sweeps is None else sweeps, group)
    stride = plan.stride
    if instance.slots * instance.blocks / stride < THREADED_FROM:
        threads = 1
    kind = BitResponses if supports_two_tier_bits(instance) else TierResponses
    responses: Responses = kind.empty(instance, stride, chosen, threads)
    termination = Termination()
    with ThreadPoolExecutor(threads) as pool:
        prices = Prices(instance, multipliers, chosen, map if threads == 1 else pool.map, serving)
        try:
            for step in range(plan.steps):
                if time.perf_counter() >= end:
                    termination = Termination(Reason.LIMIT, Limit.TIME)
                    break
                if step % stride == 0:
                    order = generator.permuted(np.tile(np.arange(stride), (instance.layers, 1)), axis=1)
                lanes = Lanes.of(instance, slice(None), order[:, step % stride], stride)
                adopt = None if step < stride else lambda shape: generator.random(shape) < plan.share
                responses.update(lanes, *prices.at(responses), adopt)
                if step >= stride and step % plan.update_every == 0:
                    prices.update(responses, (step - stride) / (plan.steps - stride))
                progress(step + 1, plan.steps, "best responses")
        except KeyboardInterrupt:
            termination = Termination(Reason.INTERRUPTED)
    complete = responses.share == 1
    return BestResponses(responses if complete else None, prices.multipliers(), termination)


@dataclass(frozen=True)
class _Plan:
    """How items are grouped.

    Attributes
    ----------
    stride
        Number of groups, each of every stride-th span of every layer; in the first sweep all take their turn.
    share
        Share of a group's lanes that adopt their best response in later sweeps.
    sweep
        Groups that respond in a later sweep.
    steps
        Groups that respond in all sweeps.
    """

    stride: int
    share: float
    sweep: int
    steps: int

    @classmethod
    def of(cls, instance: Instance, sweeps: int, group: float) -> _Plan:
        """Return the plan for some sweeps after the first, in groups of some share of the items."""
        stride = min(count_spans(instance), round(1 / group))
        # at least a few lanes of every word
        share = min(1.0, max(group * stride, instance.granularity / 64))
        sweep = round(stride / share)
        return cls(stride, share, sweep, stride + sweeps * sweep)

    @property
    def update_every(self) -> int:
        """Groups between two updates of the multipliers."""
        return max(self.sweep // _UPDATES_PER_SWEEP, 1)
