"""Run one of the study's six policies over a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from kvbound.errors import UsageError
from kvbound.fang2025 import bits, fills, rules
from kvbound.fang2025.accounting import Run, alpha, slot_times
from kvbound.fang2025.pages import bring_pages
from kvbound.fang2025.pool import Pool
from kvbound.fang2025.record import Recorder
from kvbound.fang2025.setting import Setting
from kvbound.fang2025.slots import slots
from kvbound.fang2025.static import best, check_layers, static
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent

if TYPE_CHECKING:
    from kvbound.trace import Trace


@dataclass(frozen=True)
class Options:
    """Options that rules may depend on."""

    setting: Setting
    window: int
    topk: float
    kernel: Kernel


@dataclass(frozen=True)
class Policy:
    """A policy: initial fill, placement of new tokens, migration."""

    fill: Callable[[Pool, Trace], None]
    place: rules.Place
    migrate: Callable[[Options], rules.Migrate]


POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "static": Policy(fills.prefill_first, rules.place_if_it_fits, lambda _: rules.stay),
        "reactive": Policy(fills.by_first_read, rules.place_if_it_fits, lambda _: rules.bring_misses),
        "page": Policy(fills.by_page, rules.place_with_page, lambda o: bring_pages(o.kernel)),
        "lookahead-one": Policy(
            fills.by_first_read, rules.place_if_read_next, lambda o: rules.balance_next(o.setting)
        ),
        "sa-guided": Policy(
            fills.by_first_read, rules.place_if_read_next, lambda o: rules.bring_soon(o.window, o.topk)
        ),
        "best": Policy(fills.prefill_first, rules.place_if_it_fits, lambda _: rules.stay),
    }
)
"""The study's policies by name."""


def simulate(
    setting: Setting,
    trace: Trace,
    policy: str,
    *,
    window: int = 5,
    topk: float = 0.5,
    kernel: str | None = None,
    record: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run one policy.

    Parameters
    ----------
    setting
        Model and hardware.
    trace
        The reads of every slot.
    policy
        One of `POLICIES`.
    window, topk
        Options of ``sa-guided``: steps it looks ahead, and the share of the misses that it brings in.
    kernel
        ``"numpy"`` or ``"numba"``; None takes numba if it is installed. The results are equal.
    record
        Whether to keep a log of every change of HBM, which is large for rules that move much.
    progress
        Called after every step.

    Returns
    -------
    Run

    Raises
    ------
    UsageError
        Unknown policy or kernel, `window` below 1 or `topk` outside (0, 1].
    InputError
        Trace and setting differ in their layers.
    InfeasibleError
        ``reactive`` reaches a slot at which the study's code does not terminate.
    """
    if policy not in POLICIES:
        raise UsageError(f"unknown fang2025 policy {policy!r}: expected one of {', '.join(POLICIES)}")
    if window < 1:
        raise UsageError(f"window must be at least 1, not {window}")
    if not 0 < topk <= 1:
        raise UsageError(f"topk must be above 0 and at most 1, not {topk}")
    options = Options(setting, window, topk, pick(kernel))
    check_layers(setting, trace.layers)
    if policy == "best":
        return best(setting, trace.prefill_tokens, trace.counts())
    if policy == "static" and not record:
        return static(setting, trace, progress)
    return _run_slots(options, trace, policy, record, progress or silent)


def _run_slots(options: Options, trace: Trace, name: str, record: bool, report: Progress) -> Run:
    """Run a policy slot by slot."""
    setting, policy = options.setting, POLICIES[name]
    migrate = policy.migrate(options)
    pool = Pool(trace.layers, trace.words(0).shape[1], setting.room)
    policy.fill(pool, trace)
    recorder = Recorder(pool) if record else None
    shape = (trace.decode_steps, trace.layers)
    reads, hits, promoted, external = np.zeros((4, *shape), np.int64)
    beta = np.zeros(shape, bool)
    peak = pool.used
    for slot in slots(trace):
        here = slot.step, slot.layer
        reads[here] = bits.count(slot.now)
        hits[here] = bits.count(slot.now & pool.words[slot.layer])
        beta[here] = policy.place(pool, slot)
        promoted[here], external[here] = migrate(pool, slot)
        peak = max(peak, pool.used)
        if recorder:
            recorder.note(pool, slot, bool(beta[here]))
        if slot.layer == trace.layers - 1:
            report(slot.step + 1, trace.decode_steps, name)
    share = alpha(setting, reads, hits)
    times = slot_times(setting, reads, share, beta, promoted, external)
    log = recorder.log() if recorder else None
    return Run(name, reads, hits, beta, promoted, external, share, times, peak, log)
