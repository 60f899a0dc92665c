"""Simulation: a policy's choices and an instance's rules determine a schedule."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound import arguments
from kvbound.blocks import Blocks
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import InfeasibleError, UsageError
from kvbound.fang2025.adapter import simulate_published
from kvbound.hierarchy import Hierarchy
from kvbound.identity import identify
from kvbound.initial import require_room, weight_fill
from kvbound.instance import Instance
from kvbound.kernels import named, pick
from kvbound.policies import is_file, make_policy
from kvbound.policies.answers import checked_answer, checked_scores
from kvbound.policies.base import Policy, Scores
from kvbound.policies.fills import recent_first
from kvbound.policies.view import Ids, InstanceView, Slot
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Result, Status, Termination, infeasible
from kvbound.rules import Initial
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace import Trace
from kvbound.trace.dense import DenseRows
from kvbound.trace.future import Future
from kvbound.trace.timeline import Timeline
from kvbound.weight_placement import with_weights, without_weights


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
    """Run one policy on an instance, under the accounting that its rules name.

    Parameters
    ----------
    policy
        A name (see `kvbound.policies`, or "ideal"), ``FILE.py:Class``, or a class or object with the
        `Policy` protocol.
    kernel
        "numpy" or "numba" for the hot loops that have both; None takes the faster one that is available.
    record
        Under fang2025 accounting, keep the log that the checker replays, which takes memory; a physical
        schedule is always kept.
    options
        Options of the policy, such as ``window=5, topk=0.5`` for sa-guided.

    Raises
    ------
    UsageError
        Unknown policy or option, one that the accounting does not support, or a policy of your own that
        fails; the error's cause is the exception it raised.
    """
    begin = time.perf_counter()
    arguments.instance(instance)
    options = {key: arguments.plain(value) for key, value in options.items()}
    rule: Policy | None = None
    if isinstance(policy, str) and not is_file(policy):
        name = "best" if policy == "ideal" and instance.physical else policy
    else:
        rule = make_policy(policy, **options)
        name = rule.name
    about: dict[str, Any] = {"method": name, "seed": arguments.count("seed", seed, 0), "options": options}
    if named(kernel) == "numba":  # refused where it is not installed, even if nothing here uses it
        pick(kernel)
    if not instance.physical:
        return simulate_published(instance, rule or name, about, kernel, progress, begin, record=record)
    try:
        require_room(instance)
    except InfeasibleError as error:
        return infeasible(instance, error, begin, about)
    if rule is None and name == "best":
        return _ideal(instance, about, begin)
    rule = rule or make_policy(name, **options)
    schedule, measures, termination = None, None, Termination()
    try:
        schedule = run(instance, rule, np.random.default_rng(seed), progress)
        measures = evaluate(instance, schedule, progress)
    except InfeasibleError as error:  # of this policy's schedule: others may fit
        termination = Termination(message=str(error))
    return Result(
        identify(instance),
        status=Status.UNKNOWN if schedule is None else Status.FEASIBLE,
        measures=measures,
        termination=termination,
        wall_s=time.perf_counter() - begin,
        placement=schedule,
        **about,
    )


def _ideal(instance: Instance, about: dict[str, Any], begin: float) -> Result:
    if about["options"]:
        raise UsageError("policy best takes no options")
    bound = Bound.of(instance, ideal(instance), BoundStatus.CLAIMED, "ideal")
    identity = identify(instance, with_trace=False)
    return Result(identity, status=Status.UNKNOWN, bound=bound, wall_s=time.perf_counter() - begin, **about)


def run(
    instance: Instance, policy: Policy, rng: np.random.Generator, progress: Progress = silent
) -> Schedule:
    """Return the schedule of a policy under physical accounting.

    Weights stay where they are at the start. The policy sees an instance of KV alone, with the room that the
    weights leave.
    """
    if instance.chunks.ids:
        tiers = _weight_tiers(instance, policy)
        kv = run(without_weights(instance, tiers), policy, rng, progress)
        return with_weights(instance, tiers, kv)
    oracle = bool(getattr(policy, "oracle", False))
    trace = instance.trace
    if isinstance(trace.rows, DenseRows):
        trace.rows.require_bits()  # the reads of every slot are listed
    view = InstanceView.of(instance, oracle=oracle)
    hierarchy = Hierarchy.filled(instance, _initial_scores(policy, view, rng))
    initial = hierarchy.tiers(instance.prefill_tokens)
    futures = [view.future(layer) if oracle else None for layer in range(instance.layers)]
    logs = [_Log(instance.grouping) for _ in range(instance.layers)]
    for step in range(instance.decode_steps):
        now: _Step | None = None
        for layer, timeline in enumerate(instance.timelines):
            now = now if now and now.timeline is timeline else _Step.of(timeline, step)
            hierarchy.begin(step, layer)
            slot = _observe(view, trace, hierarchy, futures[layer], now, layer)
            answer = checked_answer(policy, policy.step(slot), slot)
            moved = hierarchy.carry_out(answer, slot)
            logs[layer].add(hierarchy, slot, moved)
        progress(step + 1, instance.decode_steps, policy.name)
    return Schedule(initial, tuple(log.events() for log in logs))


def _weight_tiers(instance: Instance, policy: Policy) -> NDArray[np.uint8]:
    """Return the tiers that a policy chooses for the chunks of weights, shape (layers, ids of chunks)."""
    choose = getattr(policy, "place_weights", None)
    chosen = None if choose is None else choose(InstanceView.of(instance, oracle=False))
    if chosen is None or instance.rules.initial is Initial.PREFILL_FIRST:
        return weight_fill(instance)
    by_layer = np.zeros(0)
    with suppress(TypeError, ValueError):
        by_layer = np.asarray(chosen)
    whole = by_layer.shape == (instance.layers,) and np.issubdtype(by_layer.dtype, np.integer)
    if not whole or not np.all((by_layer >= 0) & (by_layer < instance.tiers)):
        raise UsageError(f"policy {policy.name}: expected a tier for the weights of each layer")
    return np.repeat(by_layer.astype(np.uint8)[:, None], instance.chunks.ids, axis=1)


def _initial_scores(policy: Policy, view: InstanceView, rng: np.random.Generator) -> Scores:
    scores = policy.start(view, rng)
    if scores is None:
        return recent_first(view)
    return checked_scores(policy, scores, (view.layers, view.prefill_tokens))


class _Step(NamedTuple):
    """What a step's slots of layers that are alike have in common: its tokens, in copies."""

    timeline: Timeline
    number: int
    tokens: int
    births: int
    sequence: Ids
    staying: NDArray[np.bool_]
    ended: Ids

    @classmethod
    def of(cls, timeline: Timeline, step: int) -> _Step:
        tokens, births = int(timeline.past[step]), int(timeline.births[step])
        sequence, ends = timeline.sequence[: tokens + births].copy(), timeline.ends[:tokens]
        staying = ends > step
        for shared in (sequence, staying):
            shared.flags.writeable = False
        return cls(timeline, step, tokens, births, sequence, staying, np.flatnonzero(ends < step))


def _observe(
    view: InstanceView, trace: Trace, hierarchy: Hierarchy, future: Future | None, now: _Step, layer: int
) -> Slot:
    """Return what a policy sees of a slot: copies, so that nothing else can be reached or changed."""
    step, tokens = now.number, now.tokens
    reads, listed, mass = trace.reads(step, layer), trace.listed(step, layer), trace.listed_mass(step, layer)
    mass = None if mass is None else mass.copy()
    if len(reads) and reads[-1] >= tokens:  # own reads
        past = listed < tokens
        reads, listed, mass = reads[reads < tokens], listed[past], None if mass is None else mass[past]
    tier = hierarchy.tiers(tokens, layer)
    tier[now.ended] = view.tiers
    tier.flags.writeable = False
    if future is not None:
        future.now = step
    room = int(hierarchy.room[0]) * view.granularity
    return Slot(
        view,
        step,
        layer,
        tokens,
        now.births,
        now.sequence,
        now.staying,
        reads,
        listed,
        mass,
        tier,
        room,
        future,
    )


class _Log:
    """The events of one layer, slot by slot."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._steps: list[NDArray[np.int32]] = []
        self._tokens: list[NDArray[np.int32]] = []
        self._tiers: list[NDArray[np.uint8]] = []

    def add(self, hierarchy: Hierarchy, slot: Slot, moved: Ids) -> None:
        """Record the blocks that moved in a slot, then the births."""
        born = np.arange(slot.tokens, slot.tokens + slot.births)
        tokens = np.concatenate([self._blocks.head[moved], born])
        self._steps.append(np.full(len(tokens), slot.step, np.int32))
        self._tokens.append(tokens.astype(np.int32))
        self._tiers.append(hierarchy.tier[slot.layer, self._blocks.of[tokens]])

    def events(self) -> LayerEvents:
        """Return all of them."""
        return LayerEvents(
            np.concatenate(self._steps), np.concatenate(self._tokens), np.concatenate(self._tiers)
        )
