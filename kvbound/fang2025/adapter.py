"""The study arXiv 2508.13231 run under its own accounting: its six policies, its numbers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kvbound.cost.evaluate import tpot
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.policies.base import Policy
from kvbound.progress import Progress
from kvbound.result import Measures, Result, Status, identify, infeasible

if TYPE_CHECKING:
    from kvbound.fang2025 import Run

PUBLISHED = ("static", "reactive", "page", "lookahead-one", "sa-guided", "best")
"""The policies that the fang2025 accounting knows."""


def simulate_published(
    instance: Instance,
    policy: Policy | str,
    about: dict[str, Any],
    kernel: str | None,
    progress: Progress,
    start: float,
    *,
    record: bool = False,
) -> Result:
    """Run one of the study's policies under its own accounting; `kvbound.simulate` comes here.

    Parameters
    ----------
    about
        Fields of the result that are known already: method, seed and the policy's options.
    start
        When the work began, by ``time.perf_counter``.
    record
        Keep the log that the checker replays.

    Raises
    ------
    UsageError
        The study has no such policy, or the policy no such option.
    """
    try:
        _ = instance.capacity_blocks
        return _simulate(instance, policy, about, kernel, progress, start, record)
    except InfeasibleError as error:
        return infeasible(instance, error, start, about)


def _simulate(
    instance: Instance,
    policy: Policy | str,
    about: dict[str, Any],
    kernel: str | None,
    progress: Progress,
    start: float,
    record: bool,
) -> Result:
    from kvbound import fang2025

    name, options = about["method"], about["options"]
    if not isinstance(policy, str) or name not in PUBLISHED:
        raise UsageError(
            f"fang2025 accounting knows {', '.join(PUBLISHED)}, not {name!r}; use accounting physical"
        )
    takes = ("window", "topk") if name == "sa-guided" else ()
    for option in options:
        if option not in takes:
            raise UsageError(f"policy {name} takes {', '.join(takes) or 'no options'}, not {option!r}")
    setting = fang2025.Setting.from_instance(instance)
    ideal_only = name == "best"
    if ideal_only:
        played = fang2025.best(setting, instance.prefill_tokens, instance.read_counts())
    else:
        common: dict[str, Any] = {"kernel": kernel, "record": record, "progress": progress}
        played = fang2025.simulate(setting, instance.trace, name, **common, **options)
    return Result(
        identify(instance, with_trace=not ideal_only),
        status=Status.UNKNOWN if ideal_only else Status.FEASIBLE,
        measures=_measures(instance, played),
        wall_s=time.perf_counter() - start,
        kernel=pick(kernel),
        placement=None if played.log is None else played,
        **about,
    )


def _measures(instance: Instance, played: Run) -> Measures:
    first, last = (tier.name for tier in instance.memory.tiers)
    reads = int(played.reads.sum())
    hit_rate = None if played.hits is None or not reads else float(played.hits.sum() / reads)
    resident = int(instance.llm.weight_bytes) + played.peak_items * instance.item_bytes
    return Measures(
        time_s=played.total_s,
        tpot_s=tpot(played.step_times_s),
        hit_rate={} if hit_rate is None else {first: hit_rate, last: 1 - hit_rate},
        hit_rate_with_weights=played.mean_alpha,
        moved_bytes={"up": int(played.promoted.sum()) * instance.item_bytes, "down": 0},
        peak_bytes={first: resident, last: instance.layers * instance.tokens * instance.item_bytes},
    )
