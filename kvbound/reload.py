"""How fast the KV of a context can be loaded again at best, and whether recomputing it is faster.

The bytes of KV are read from a tier and written to the fastest one, each resource at its bandwidth, all side
by side: no system loads them in less time. Recomputing them takes at least two operations for each token and
parameter that layers read. The arithmetic of attention is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvbound.errors import UsageError
from kvbound.llm.model import Llm
from kvbound.memory import Memory


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
        Name of the resource that takes this time.
    fits
        Whether the tier holds all of the KV.
    """

    tier: str
    time_s: float
    binds: str
    fits: bool


def kv_bytes(llm: Llm, tokens: int) -> int:
    """Return the bytes of KV that a sequence of so many tokens needs to go on: windows keep no more."""
    if tokens < 1:
        raise UsageError(f"reloading needs at least 1 token, not {tokens}")
    windows = llm.windows or (None,) * llm.layers
    kept = (tokens if window is None else min(tokens, window - 1) for window in windows)
    return sum(count * size for count, size in zip(kept, llm.kv_sizes, strict=True))


def loads(memory: Memory, llm: Llm, tokens: int) -> Sequence[Load]:
    """Return the least times of loading the KV of a context from each tier but the fastest.

    Raises
    ------
    UsageError
        There is no token.
    """
    size, found = kv_bytes(llm, tokens), []
    for k, tier in enumerate(memory.tiers[1:], 1):
        seconds = size * (memory.read_load[k] + memory.write_load[0]) / memory.bandwidths
        seconds = seconds + np.where(memory.read_load[k] > 0, tier.latency, 0.0)
        binds = int(seconds.argmax())
        fits = tier.capacity is None or size <= tier.capacity
        found.append(Load(tier.name, float(seconds[binds]), list(memory.resources)[binds], fits))
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
