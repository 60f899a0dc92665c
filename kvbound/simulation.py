"""A policy and an instance give a schedule: what the rules allow of what the policy wants."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound import arguments
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import InfeasibleError, UsageError
from kvbound.fang2025.adapter import PUBLISHED as PUBLISHED
from kvbound.fang2025.adapter import simulate_published
from kvbound.hierarchy import Hierarchy, apply, block_scores, place_new_block, request
from kvbound.initial import Tiers, recent_first
from kvbound.instance import Instance
from kvbound.kernels import named, pick
from kvbound.policies import is_file, make_policy
from kvbound.policies.answers import checked_scores, checked_wish
from kvbound.policies.base import Ids, MoveRequest, Policy, Slot
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status, identify, infeasible
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace.future import Future


def simulate(
    instance: Instance,
    policy: Policy | type[Any] | str,
    *,
    seed: int = 0,
    kernel: str | None = None,
    record: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Run one policy on an instance, under the accounting its rules name.

    Parameters
    ----------
    policy
        A name (see `kvbound.policies`, or "ideal"), ``FILE.py:Class``, or a class or object with the
        `Policy` protocol.
    kernel
        "numpy" or "numba" for the hot loops that have both; None takes the faster one at hand.
    record
        Keep what the checker replays under fang2025 accounting, which takes memory; a physical
        schedule is always kept.
    options
        The policy's own, such as ``window=5, topk=0.5`` for sa-guided.

    Raises
    ------
    UsageError
        Unknown policy or option, one that the accounting does not know, or a policy of your own that
        fails; the error's cause is what it raised.
    """
    start = time.perf_counter()
    arguments.instance(instance)
    options = {key: arguments.plain(value) for key, value in options.items()}
    rule: Policy | None = None
    if isinstance(policy, str) and not is_file(policy):
        name = "best" if policy == "ideal" and instance.physical else policy
    else:
        rule = make_policy(policy, **options)
        name = rule.name
    about: dict[str, Any] = {"method": name, "seed": arguments.count("seed", seed, 0), "options": options}
    if named(kernel) == "numba":  # what cannot be had is refused even where one kernel does it all
        pick(kernel)
    if not instance.physical:
        return simulate_published(instance, rule or name, about, kernel, progress, start, record=record)
    try:
        _ = instance.capacity_blocks
        if rule is None and name == "best":
            return _best(instance, about, start)
        rule = rule or make_policy(name, **options)
        schedule = run(instance, rule, np.random.default_rng(seed), progress)
        measures = evaluate(instance, schedule, progress)
    except InfeasibleError as error:
        return infeasible(instance, error, start, about)
    return Result(
        identify(instance),
        status=Status.FEASIBLE,
        measures=measures,
        wall_s=time.perf_counter() - start,
        placement=schedule,
        **about,
    )


def _best(instance: Instance, about: dict[str, Any], start: float) -> Result:
    if about["options"]:
        raise UsageError("policy best takes no options")
    bound = Bound(ideal(instance), BoundStatus.CLAIMED, "ideal")
    identity = identify(instance, with_trace=False)
    return Result(identity, status=Status.UNKNOWN, bound=bound, wall_s=time.perf_counter() - start, **about)


def run(
    instance: Instance, policy: Policy, rng: np.random.Generator, progress: Progress = silent
) -> Schedule:
    """Return the schedule of a policy under physical accounting."""
    answer = policy.start(instance, rng)
    prompt = (instance.layers, instance.prefill_tokens)
    scores = recent_first(instance) if answer is None else checked_scores(policy, answer, prompt)
    pool = Hierarchy.filled(instance, scores)
    initial = pool.tiers(instance.prefill_tokens)
    oracle = getattr(policy, "oracle", False)
    futures = [Future(instance.trace, n) if oracle else None for n in range(instance.layers)]
    logs: list[_Log] = [_Log() for _ in range(instance.layers)]
    for step in range(instance.decode_steps):
        for layer in range(instance.layers):
            _play(instance, policy, pool, logs[layer], futures[layer], step, layer)
        progress(step + 1, instance.decode_steps, policy.name)
    return Schedule(initial, tuple(log.events() for log in logs))


class _Log:
    """The events of one layer as they happen."""

    def __init__(self) -> None:
        self._steps: list[NDArray[np.int32]] = []
        self._tokens: list[NDArray[np.int32]] = []
        self._tiers: list[Tiers] = []

    def add(self, step: int, tokens: Ids, tiers: Tiers) -> None:
        self._steps.append(np.full(len(tokens), step, np.int32))
        self._tokens.append(tokens.astype(np.int32))
        self._tiers.append(tiers)

    def events(self) -> LayerEvents:
        return LayerEvents(
            np.concatenate(self._steps), np.concatenate(self._tokens), np.concatenate(self._tiers)
        )


def _play(
    instance: Instance,
    policy: Policy,
    pool: Hierarchy,
    log: _Log,
    future: Future | None,
    step: int,
    layer: int,
) -> None:
    """One slot: ask the policy, move what may move, place the new token."""
    tokens = instance.prefill_tokens + step
    slot = _view(instance, pool, future, step, layer)
    answer = policy.step(slot)
    if isinstance(answer, MoveRequest):
        answer = checked_wish(policy, answer, slot)
    else:
        answer = block_scores(checked_scores(policy, answer, (tokens + 1,)), instance)
    state = pool.tier[layer]
    born = -(-tokens // instance.granularity)  # blocks begun before this slot
    before = state[:born].copy()
    wish = answer if isinstance(answer, MoveRequest) else request(answer, slot, pool, 0)
    left = apply(wish, slot, pool)
    if not isinstance(answer, MoveRequest):
        for tier in range(1, instance.tiers - 1):
            apply(request(answer, slot, pool, tier), slot, pool, tier)
    if tokens % instance.granularity == 0:
        place_new_block(wish.birth, left, slot, pool)
    moved = np.flatnonzero(state[:born] != before)
    log.add(step, moved * instance.granularity, state[moved])
    log.add(step, np.array([tokens]), state[[tokens // instance.granularity]])


def _view(instance: Instance, pool: Hierarchy, future: Future | None, step: int, layer: int) -> Slot:
    tokens, trace = instance.prefill_tokens + step, instance.trace
    reads = trace.reads(step, layer)
    own = len(reads) > 0 and reads[-1] == tokens
    listed, mass = trace.listed(step, layer), trace.listed_mass(step, layer)
    if own:
        past = listed != tokens
        reads, listed, mass = reads[:-1], listed[past], None if mass is None else mass[past]
    tier = pool.tiers(tokens, layer)
    tier.flags.writeable = False
    if mass is not None:
        mass = mass.view()
        mass.flags.writeable = False
    if future is not None:
        future.now = step
    room = int(pool.room[0]) * instance.granularity
    return Slot(instance, step, layer, tokens, reads, listed, mass, tier, room, future)
