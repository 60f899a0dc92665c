"""Run the six policies of the study arXiv 2508.13231 under its own accounting, as `Result`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kvbound.cost.evaluate import tpot
from kvbound.errors import InfeasibleError, UsageError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.policies.base import Policy
from kvbound.progress import Progress
from kvbound.result import Measures, Result, Status, infeasible

if TYPE_CHECKING:
    from kvbound.fang2025 import Run

PUBLISHED = ("static", "reactive", "page", "lookahead-one", "sa-guided", "best")
"""The policies of the fang2025 accounting."""


def simulate_published(
    instance: Instance,
    policy: Policy | str,
    result_fields: dict[str, Any],
    kernel: str | None,
    progress: Progress,
    start: float,
    *,
    record: bool = False,
) -> Result:
    """Run one of the study's policies under its own accounting, for `kvbound.simulate`.

    Parameters
    ----------
    result_fields
        Fields of the result: method, seed and the policy's options.
    start
        Start of the run, by ``time.perf_counter``.
    record
        Whether to keep the log that the checker replays.

    Raises
    ------
    UsageError
        The study does not have the policy, or the policy does not have the option.
    """
    try:
        _ = instance.capacity_units
        return _simulate(instance, policy, result_fields, kernel, progress, start, record)
    except InfeasibleError as error:
        return infeasible(instance, error, start, result_fields)


def _simulate(
    instance: Instance,
    policy: Policy | str,
    result_fields: dict[str, Any],
    kernel: str | None,
    progress: Progress,
    start: float,
    record: bool,
) -> Result:
    from kvbound import fang2025

    name, options = result_fields["method"], result_fields["options"]
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
        run = fang2025.best(setting, instance.prefill_tokens, instance.read_counts())
    else:
        common: dict[str, Any] = {"kernel": kernel, "record": record, "progress": progress}
        run = fang2025.simulate(setting, instance.trace, name, **common, **options)
    return Result(
        identify(instance, with_trace=not ideal_only),
        status=Status.UNKNOWN if ideal_only else Status.FEASIBLE,
        measures=_measures(instance, run),
        wall_s=time.perf_counter() - start,
        kernel=pick(kernel),
        placement=None if run.log is None else run,
        **result_fields,
    )


def _measures(instance: Instance, run: Run) -> Measures:
    first, last = (tier.name for tier in instance.memory.tiers)
    reads = int(run.reads.sum())
    hit_rate = None if run.hits is None or not reads else float(run.hits.sum() / reads)
    resident = int(instance.llm.weight_bytes) + run.peak_items * int(instance.item_bytes[0])
    return Measures(
        time_s=run.total_s,
        tpot_s=tpot(run.step_times_s),
        hit_rate={} if hit_rate is None else {first: hit_rate, last: 1 - hit_rate},
        hit_rate_with_weights=run.mean_alpha,
        moved_bytes={"up": int(run.promoted.sum()) * int(instance.item_bytes[0]), "down": 0},
        peak_bytes={first: resident, last: instance.layers * instance.tokens * int(instance.item_bytes[0])},
    )
