"""How fast the KV of a context can be loaded again at best, and whether recomputing it is faster.

The bytes of KV are read from a tier and written to the fastest one, each resource at its bandwidth, all side
by side: no system loads them in less time. Recomputing them takes at least two operations for each token and
parameter that layers read. The arithmetic of attention is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns
from kvbound.errors import UsageError
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.rules import Copies, Rules


@dataclass(frozen=True)
class Load:
    """Loading a context's KV from one tier into the fastest one.

    Attributes
    ----------
    tier
        Name of the tier.
    time_s
        Time lower bound in seconds.
    binds
        Name of the resource that takes this time, waiting included.
    fits
        Whether the tier holds all of the KV.
    """

    tier: str
    time_s: float
    binds: str
    fits: bool


def kv_bytes(llm: Llm, tokens: int) -> int:
    """Return the bytes of KV that a context of so many tokens needs to go on.

    Raises
    ------
    UsageError
        There is no token.
    """
    if tokens < 1:
        raise UsageError(f"reloading needs at least 1 token, not {tokens}")
    return sum(llm.kv_kept(tokens))


def loads(memory: Memory, llm: Llm, tokens: int) -> Sequence[Load]:
    """Return the least times of loading the KV of a context from each tier but the fastest.

    Each is the time of a slot that reads the KV from the tier and writes it to tier 0.

    Raises
    ------
    UsageError
        There is no token.
    """
    size, cost = kv_bytes(llm, tokens), SlotCost(memory, Rules(copies=Copies.EXCLUSIVE))
    traffic = np.zeros((cost.tiers, 3 * cost.tiers))
    columns = Columns.of(traffic)
    np.fill_diagonal(columns.extra_reads, size)
    columns.writes[:, 0] = size
    waits = cost.waits(np.eye(len(memory.resources)))[:, 1 << np.arange(cost.tiers)]
    seconds = cost.busy(traffic) + waits.T  # by tier and resource
    found = []
    for tier, taken in zip(memory.tiers[1:], seconds[1:], strict=True):
        binds = list(memory.resources)[int(taken.argmax())]
        fits = tier.capacity is None or size <= tier.capacity
        found.append(Load(tier.name, float(taken.max()), binds, fits))
    return found


def recompute_s(llm: Llm, tokens: int, flops: float) -> float:
    """Return the least seconds of recomputing the KV of a context.

    Parameters
    ----------
    flops
        Peak rate of operations per second. Weights count as parameters of 2 bytes, or of 4 if the model's
        configuration says so: with fewer bytes each, there are more of them.

    Raises
    ------
    UsageError
        The rate is not above 0, or there is no token.
    """
    if not 0 < flops < float("inf"):
        raise UsageError(f"recomputing needs a rate of operations above 0, not {flops}")
    if tokens < 1:
        raise UsageError(f"recomputing needs at least 1 token, not {tokens}")
    size = 4 if llm.config.get("torch_dtype") == "float32" else 2
    return 2 * float(llm.weight_reads.sum()) / size * tokens / flops
